"""Releases in S3: `push` puts one there, `fetch` brings into a pod's volumes what one of its services needs, compared with its digests.

    python -m quarry_ingestion.artefacts push  RELEASE --home DIR --to s3://bucket/releases
    python -m quarry_ingestion.artefacts fetch RELEASE gateway|reader|retriever --from s3://bucket/releases --models DIR [--index DIR]

Under the prefix: `<id>/release.json`, `models/<name>/<version>/` (Seldon's modelUri can be that folder too), and of the embedded index
`index/<generation>/`: index.json, index.db under its SHA-256, and `snapshot.json` that names both, written last. A release's id is a digest
of its content and that names the models' digests, so who knows the id needs not trust the bucket. The index changes and is not part of a
release: only snapshot.json vouches for it. Manifests are written last, here and there: their existence means the rest is whole.
"""

import argparse
import contextlib
import json
import sqlite3
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from quarry_contract.codec import Message
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.manifests import (
    INDEX_MANIFEST,
    MODEL_MANIFEST,
    RELEASE_MANIFEST,
    FileDigest,
    IndexManifest,
    ManifestError,
    ModelManifest,
    ReleaseManifest,
    digest_file,
    read_manifest,
    verify_files,
    write_manifest,
)
from quarry_contract.releases import check_release, index_dir, model_dir, read_release, release_path

SNAPSHOT = "snapshot.json"
PARTS = ("gateway", "reader", "retriever")
_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=5, read_timeout=60)


@dataclass(frozen=True)
class Snapshot(Message):
    """`snapshot.json`: a copy of an index generation as it was at one moment."""

    generation: str
    files: dict[str, FileDigest]


class ArtefactError(Exception):
    """S3 does not give or take what it should; the message says what to do."""


class Bucket:
    """The objects under s3://bucket/prefix. Credentials, region and endpoint are boto3's own: AWS_* variables, pod identity."""

    def __init__(self, uri: str) -> None:
        """Take the address apart; nothing is asked yet.

        Raises:
            ArtefactError: it is not s3://bucket[/prefix].
        """
        parts = urlsplit(uri, allow_fragments=False)
        if parts.scheme != "s3" or not parts.netloc or parts.query:
            raise ArtefactError(f"{uri} is not s3://bucket/prefix")
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._client = boto3.client("s3", config=_CONFIG)

    def get(self, name: str, into: Path) -> None:
        """Copy an object into a file.

        Raises:
            ArtefactError: it is not there, or S3 does not give it.
        """
        with self._told(f"{name} cannot be fetched", "was this release pushed there?"):
            self._client.download_file(self._bucket, self._key(name), str(into))

    def put(self, name: str, path: Path) -> None:
        """Copy a file into an object.

        Raises:
            ArtefactError: S3 does not take it.
        """
        with self._told(f"{name} cannot be stored", "is the bucket there?"):
            self._client.upload_file(str(path), self._bucket, self._key(name))

    def keep_only(self, folder: str, ending: str, name: str) -> None:
        """Delete the folder's other objects of this ending.

        Raises:
            ArtefactError: S3 does not do it.
        """
        with self._told(f"{folder} cannot be tidied", "is the bucket there?"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key(f"{folder}/"))
            for key in (found["Key"] for page in pages for found in page.get("Contents", ())):
                if key.endswith(ending) and key != self._key(f"{folder}/{name}"):
                    self._client.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".lstrip("/")

    @contextlib.contextmanager
    def _told(self, what: str, advice: str) -> Any:
        """S3's errors in a line, without the request's particulars."""
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            code = error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else type(error).__name__
            advice = advice if code in ("404", "NoSuchKey", "NoSuchBucket") else "look at the endpoint and the permissions"
            raise ArtefactError(f"{what}, s3://{self._bucket}/{self._key('')}: {code}; {advice}") from None


def push(bucket: Bucket, home: Path, identity: str) -> None:
    """Put a release of this QUARRY_HOME there, its models, and its index as it is now.

    Raises:
        ManifestError: it is not whole.
        ArtefactError: S3 does not take it.
    """
    manifest = check_release(home, identity)
    for reference in (manifest.reader, manifest.retriever):
        folder = model_dir(home, reference)
        for name in (*read_manifest(folder / MODEL_MANIFEST, ModelManifest).files, MODEL_MANIFEST):
            bucket.put(f"{_model(reference)}/{name}", folder / name)
    _push_index(bucket, index_dir(home, manifest.index_generation), manifest.index_generation)
    bucket.put(f"{identity}/{RELEASE_MANIFEST}", release_path(home, identity))


def _push_index(bucket: Bucket, folder: Path, generation: str) -> None:
    there = f"index/{generation}"
    with tempfile.TemporaryDirectory() as scratch:
        database, snapshot = Path(scratch) / INDEX_DATABASE, Path(scratch) / SNAPSHOT
        _copy(folder / INDEX_DATABASE, database)
        files = {INDEX_MANIFEST: digest_file(folder / INDEX_MANIFEST), INDEX_DATABASE: digest_file(database)}
        write_manifest(snapshot, Snapshot(generation, files))
        bucket.put(f"{there}/{files[INDEX_DATABASE].sha256}.db", database)
        bucket.put(f"{there}/{INDEX_MANIFEST}", folder / INDEX_MANIFEST)
        bucket.put(f"{there}/{SNAPSHOT}", snapshot)
        bucket.keep_only(there, ".db", f"{files[INDEX_DATABASE].sha256}.db")


def _copy(database: Path, into: Path) -> None:
    """One moment of an index that may be written meanwhile, as a file that a read-only volume can hold: without a write-ahead log."""
    with contextlib.closing(connect(database)) as source, contextlib.closing(sqlite3.connect(into)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()
        copy.execute("DELETE FROM graphs")  # files beside index.db; the retriever builds its own
        copy.commit()


def fetch(bucket: Bucket, identity: str, part: str, models: Path, index: Path | None) -> ReleaseManifest:
    """Fill `models` (release.json; of a reader or retriever its artefact) and, for a retriever, `index`. What is there whole stays.

    Raises:
        ManifestError: what came is not what the release, or the manifests, say.
        ArtefactError: it cannot be fetched.
    """
    _clear(models / MODEL_MANIFEST, models / RELEASE_MANIFEST)
    with tempfile.TemporaryDirectory(dir=models) as scratch:
        coming = Path(scratch) / RELEASE_MANIFEST
        bucket.get(f"{identity}/{RELEASE_MANIFEST}", coming)
        manifest = read_release(coming)
        if manifest.release_id != identity:
            raise ManifestError(f"{identity}/{RELEASE_MANIFEST} is of release {manifest.release_id}: push {identity} again")
        if part != "gateway":
            reference, digest = (manifest.reader, manifest.reader_digest) if part == "reader" else (manifest.retriever, manifest.retriever_digest)
            _fetch_model(bucket, reference, digest, models, Path(scratch) / MODEL_MANIFEST)
        if part == "retriever" and index is not None:
            _fetch_index(bucket, manifest, index)
        coming.replace(models / RELEASE_MANIFEST)
    return manifest


def _fetch_model(bucket: Bucket, reference: str, digest: str, folder: Path, coming: Path) -> None:
    bucket.get(f"{_model(reference)}/{MODEL_MANIFEST}", coming)
    model = read_manifest(coming, ModelManifest)
    if model.digest != digest:
        raise ManifestError(f"{reference} is not the model that the release was made with: its digest is {model.digest[:12]}, not {digest[:12]}")
    _fetch_files(bucket, folder, {name: (f"{_model(reference)}/{name}", file) for name, file in model.files.items()})
    coming.replace(folder / MODEL_MANIFEST)


def _fetch_index(bucket: Bucket, release: ReleaseManifest, folder: Path) -> None:
    generation = release.index_generation
    _clear(folder / INDEX_MANIFEST)
    bucket.get(f"index/{generation}/{SNAPSHOT}", folder / SNAPSHOT)
    files = read_manifest(folder / SNAPSHOT, Snapshot).files
    if files.keys() != {INDEX_MANIFEST, INDEX_DATABASE}:
        raise ManifestError(f"{SNAPSHOT} does not name {INDEX_MANIFEST} and {INDEX_DATABASE}: push the release again")
    database = files[INDEX_DATABASE]
    _fetch_files(bucket, folder, {INDEX_DATABASE: (f"index/{generation}/{database.sha256}.db", database)})
    _fetch_files(bucket, folder, {INDEX_MANIFEST: (f"index/{generation}/{INDEX_MANIFEST}", files[INDEX_MANIFEST])})
    found = read_manifest(folder / INDEX_MANIFEST, IndexManifest)
    if (found.generation, found.encoder_digest) != (generation, release.retriever_digest):
        _clear(folder / INDEX_MANIFEST)
        raise ManifestError(f"the index there is generation {found.generation} of encoder {found.encoder_digest[:12]}: not of release {release.release_id}")


def _fetch_files(bucket: Bucket, folder: Path, files: dict[str, tuple[str, FileDigest]]) -> None:
    """Each from its object, unless it is there with its digest already."""
    for name, (source, expected) in files.items():
        path = folder / name
        if Path(name).name != name:
            raise ManifestError(f"the manifest names a file outside its folder: {name!r}")
        if not path.is_file() or digest_file(path) != expected:
            bucket.get(source, path)
            try:
                verify_files(folder, {name: expected})
            except ManifestError:
                _clear(path)
                raise


def _clear(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _model(reference: str) -> str:
    return f"models/{reference.removeprefix('models:/')}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="quarry_ingestion.artefacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    pushing, fetching = verbs.add_parser("push"), verbs.add_parser("fetch")
    pushing.add_argument("release", help="its id")
    pushing.add_argument("--home", type=Path, required=True, help="QUARRY_HOME")
    pushing.add_argument("--to", required=True, help="s3://bucket/prefix")
    fetching.add_argument("release", help="its id")
    fetching.add_argument("part", choices=PARTS)
    fetching.add_argument("--from", dest="source", required=True, help="s3://bucket/prefix")
    fetching.add_argument("--models", type=Path, required=True, help="folder for release.json and the artefact")
    fetching.add_argument("--index", type=Path, help="retriever: folder for the index, where it is not a volume of its own")
    return parser.parse_args()


def main() -> None:
    """Entry point; the last line of standard output is a JSON report."""
    args = parse()
    try:
        if args.verb == "push":
            push(Bucket(args.to), args.home.resolve(), args.release)
        else:
            fetch(Bucket(args.source), args.release, args.part, args.models, args.index)
    except (ManifestError, ArtefactError, OSError, sqlite3.Error) as error:
        sys.exit(f"release {args.release} was not {args.verb}ed: {error}")
    print(json.dumps({"release": args.release, "done": args.verb}))


if __name__ == "__main__":
    main()
