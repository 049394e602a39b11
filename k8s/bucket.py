"""A bucket, made unless it is there, and a folder's files in it: `bucket.py NAME [FOLDER PREFIX/]`, with boto3's own AWS_* variables.

Waits for a store that is just being forwarded.
"""

import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

client = boto3.client("s3", config=Config(retries={"mode": "standard", "total_max_attempts": 10}))
try:
    client.create_bucket(Bucket=sys.argv[1])
except ClientError as error:
    if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
        raise

if len(sys.argv) > 2:
    folder, prefix = Path(sys.argv[2]), sys.argv[3]
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        client.upload_file(str(path), sys.argv[1], prefix + path.relative_to(folder).as_posix())
