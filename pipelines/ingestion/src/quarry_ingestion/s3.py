"""An S3 prefix as a source. Credentials, region and endpoint are boto3's own: AWS_* variables, profile, instance role."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from .rules import RULES, Rules, RulesError, checked
from .sources import Forbidden, Item, SourceError, Vanished

PRINCIPALS_KEY = "quarry-principals"  # user metadata of an object: comma separated
TRIES = 3  # of an object whose bytes are not what its headers say
BLOCK_BYTES = 1 << 20

_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=5, read_timeout=60)
_MD5 = re.compile(r'"?[0-9a-f]{32}"?')
_NOT_THERE = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_REFUSED = {"403", "AccessDenied", "Forbidden", "InvalidObjectState", "KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.NotFoundException"}


class Prefix:
    """Every current object under s3://bucket/prefix/, hidden ones left out. In a versioned bucket: its newest version, unless that is a deletion."""

    def __init__(self, uri: str) -> None:
        """Take the address apart; nothing is asked yet.

        Raises:
            SourceError: it is not s3://bucket[/prefix].
        """
        parts = urlsplit(uri, allow_fragments=False)
        if parts.scheme != "s3" or not parts.netloc or parts.query:
            raise SourceError(f"{uri} is not s3://bucket/prefix")
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self._rules = Rules(self._read_rules)
        self._client = boto3.client("s3", config=_CONFIG)
        self.uri = self.address = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self.name = self.uri.rpartition("/")[2]
        self.unlisted: list[tuple[str, str]] = []

    def items(self) -> Iterator[Item]:
        """Every object, in the order of the keys, a page of 1,000 at a time.

        Raises:
            SourceError: it cannot be listed to the end, or a `.quarry.json` is wrong.
        """
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                for found in page.get("Contents", ()):
                    yield from self._item(found)
        except RulesError as error:
            raise SourceError(f"{error}: correct it and ingest again; who may read the documents is not known") from None
        except (ClientError, BotoCoreError) as error:
            raise SourceError(f"{self.uri} cannot be listed: {_reason(error)}") from None

    def _item(self, found: dict[str, Any]) -> Iterator[Item]:
        location = found["Key"][len(self._prefix) :]
        if location.endswith("/") or not location or any(part.startswith(".") for part in location.split("/")):
            return
        fingerprint = f"{found['ETag']} {found['Size']} {found['LastModified'].isoformat()}"  # the time: metadata alone may have changed
        modified = found["LastModified"].timestamp()
        yield Item(location, found["Key"], fingerprint, found["Size"], self._rules.principals(location), modified)

    def fetch(self, item: Item, into: Path) -> tuple[str, ...]:
        """Copy the object, compared with its size and, where that is its MD5, its ETag; who may read it.

        Raises:
            Vanished: it is there no more.
            Forbidden: it, or the key that it is encrypted with, may not be used, or its metadata is wrong.
            SourceError: S3 does not answer, or gives other bytes than it says.
        """
        try:
            for _ in range(TRIES):
                reply = self._client.get_object(Bucket=self._bucket, Key=item.location)
                if _copied(reply, into):
                    return _principals(reply["Metadata"], item.principals)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code in _NOT_THERE:
                raise Vanished from None
            if code in _REFUSED:
                raise Forbidden(_reason(error)) from None
            raise SourceError(f"{self.uri} cannot be read: {_reason(error)}") from None
        except BotoCoreError as error:
            raise SourceError(f"{self.uri} cannot be read: {_reason(error)}") from None
        raise SourceError(f"{item.uri} of {self.uri} came broken {TRIES} times: try again")

    def _read_rules(self, folder: str) -> bytes | None:
        try:
            reply = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{folder}/{RULES}" if folder else f"{self._prefix}{RULES}")
            return bytes(reply["Body"].read())
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code")) in _NOT_THERE:
                return None
            raise


def _copied(reply: dict[str, Any], into: Path) -> bool:
    """Whether what came is what the headers say. An ETag is the MD5 of the bytes unless there were parts or a key of KMS or the customer."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with into.open("wb") as copy:
            for block in reply["Body"].iter_chunks(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
                copy.write(block)
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
        return False
    plain = not reply.get("ServerSideEncryption", "").startswith("aws:kms") and "SSECustomerAlgorithm" not in reply
    told = reply["ETag"].strip('"') if plain and _MD5.fullmatch(reply["ETag"]) else digest.hexdigest()
    return size == reply["ContentLength"] and told == digest.hexdigest()


def _principals(metadata: dict[str, str], by_rule: tuple[str, ...]) -> tuple[str, ...]:
    """An object's own principals go before the rules; an empty list is nobody."""
    if PRINCIPALS_KEY not in metadata:
        return by_rule
    try:
        return checked([p.strip() for p in metadata[PRINCIPALS_KEY].split(",") if p.strip()])
    except RulesError as error:
        raise Forbidden(f"metadata {PRINCIPALS_KEY}: {error}") from None


def _reason(error: Exception) -> str:
    """What went wrong, without the request's particulars."""
    if isinstance(error, ClientError):
        found = error.response.get("Error", {})
        return f"{found.get('Code')} {found.get('Message', '')}".strip()
    return json.dumps(str(error))[1:-1]
