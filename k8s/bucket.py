"""A bucket, made unless it is there: `bucket.py NAME`, with boto3's own AWS_* variables. Waits for a store that is just being forwarded."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client("s3", config=Config(retries={"mode": "standard", "total_max_attempts": 10}))
try:
    client.create_bucket(Bucket=sys.argv[1])
except ClientError as error:
    if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
        raise
