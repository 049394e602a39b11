"""An S3 prefix to the same index as a folder, against a real moto server on loopback."""

import io
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from quarry_runtime import tiny

from quarry_ingestion.__main__ import digests
from quarry_ingestion.pipeline import sync
from quarry_ingestion.s3 import Prefix
from quarry_ingestion.sources import Folder, Forbidden, SourceError, Vanished

from .test_ingest import report, rows, run

BUCKET = "papers"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.encoder(folder, ["crane", "pile", "wall", "wind"])
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A moto server of its own, on a free port."""
    script = """from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.wait()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, an empty bucket, and the environment that leads boto3 to the server."""
    for name, value in {"ENDPOINT_URL": server, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"), timeout=10).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def put(s3: Any, key: str, data: str | bytes, **more: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=data, **more)


def test_a_prefix_and_a_folder_of_the_same_files_give_the_same_index(s3: Any, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "docs"
    files = {"a.md": "# Cranes\n\nThe crane stops.", "sub/b ü.txt": "The wall.", ".quarry.json": '{"principals": {"sub/*": ["group:site"]}}'}
    files |= {"sub/.quarry.json": '{"principals": {"x": ["nobody"]}}', "bad.pdf": "%PDF-"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        put(s3, f"docs/{name}", text)
    put(s3, "docs-old/c.txt", "Beside the prefix, not under it.")
    put(s3, "docs/sub/", b"")
    found = report(run(f"s3://{BUCKET}/docs", tmp_path / "s3", model))
    assert (found["documents"], [s["code"] for s in found["skipped"]]) == (2, ["damaged"])
    query = "SELECT document_id, source, principals FROM documents ORDER BY 1"
    assert rows(tmp_path / "s3", found["generation"], query) == [("a.md", "a.md", '["*"]'), ("sub/b ü.txt", "sub/b ü.txt", '["group:site"]')]
    (tmp_path / "folder").mkdir()
    sync(Folder(folder), tmp_path / "folder", model)
    assert digests(tmp_path / "s3") == digests(tmp_path / "folder")
    assert sync(Prefix(f"s3://{BUCKET}/docs/"), tmp_path / "s3", model)["unchanged"] == 2, "the same source, written otherwise"


def test_changes_deletions_and_permissions_of_a_versioned_bucket(s3: Any, tmp_path: Path, model: Path) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    home, source = tmp_path, Prefix(f"s3://{BUCKET}")
    for name in "abc":
        put(s3, f"{name}.txt", f"The crane {name}.")
    first = sync(source, home, model)
    put(s3, "a.txt", "The pile a.")
    s3.delete_object(Bucket=BUCKET, Key="b.txt")
    time.sleep(1)  # what moto gives as LastModified has whole seconds
    s3.copy_object(Bucket=BUCKET, Key="c.txt", CopySource=f"{BUCKET}/c.txt", MetadataDirective="REPLACE", Metadata={"quarry-principals": "user:jo, group:a"})
    second = sync(source, home, model)
    assert [second[name] for name in ("documents", "added", "updated", "removed", "encoded")] == [2, 0, 2, 1, 1]
    query = "SELECT document_id, text, principals FROM documents ORDER BY 1"
    assert rows(home, first["generation"], query) == [("a.txt", "The pile a.", '["*"]'), ("c.txt", "The crane c.", '["group:a", "user:jo"]')]


def test_objects_of_many_parts_and_under_a_key_of_kms_are_checked_by_what_their_etag_can_tell(s3: Any, tmp_path: Path) -> None:
    data = os.urandom(6 << 20)
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "parts.bin", Config=boto3.s3.transfer.TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
    key = boto3.client("kms").create_key()["KeyMetadata"]["KeyId"]
    put(s3, "secret.txt", "The crane.", ServerSideEncryption="aws:kms", SSEKMSKeyId=key, Metadata={"quarry-principals": ""})
    source = Prefix(f"s3://{BUCKET}")
    parts, secret = source.items()
    assert ("-2" in parts.fingerprint, parts.size) == (True, len(data))
    assert source.fetch(parts, tmp_path / "x") == ("*",)
    assert (tmp_path / "x").read_bytes() == data
    assert source.fetch(secret, tmp_path / "y") == (), "its own metadata says nobody"
    assert (tmp_path / "y").read_text() == "The crane."
    s3.delete_object(Bucket=BUCKET, Key="secret.txt")
    with pytest.raises(Vanished):
        source.fetch(secret, tmp_path / "y")


class Between(BaseHTTPRequestHandler):
    """Stands between the client and moto, and does harm: `harm` is a path's part -> what is done to its answers."""

    server_url = ""
    harm: dict[str, str] = {}  # noqa: RUF012 - set by each test
    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.path)
        kind = next((kind for part, kind in self.harm.items() if part in self.path), "")
        if kind.isdigit():
            body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>" if kind == "403" else b"<Error><Code>SlowDown</Code></Error>"
            self.answer(int(kind), {}, body)
            return
        more = "&max-keys=2" if kind == "pages" else ""
        reply = urllib3.request("GET", self.server_url + self.path + more, headers=dict(self.headers), redirect=False, decode_content=False)
        headers = {k: v for k, v in reply.headers.items() if k.lower() not in ("content-length", "connection", "transfer-encoding", "date")}
        body = bytes([reply.data[0] ^ 1]) + reply.data[1:] if kind == "flip" else reply.data
        self.answer(reply.status, headers, body, len(body) + 10 if kind == "cut" else len(body))

    def answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length or len(body)), "Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def between(s3: Any, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Between]]:
    Between.server_url, Between.harm = server, {}
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    yield Between
    proxy.shutdown()
    proxy.server_close()


def test_a_listing_of_many_pages_is_read_to_its_end(s3: Any, between: type[Between]) -> None:
    between.harm = {"list-type": "pages"}
    between.seen.clear()
    for name in "abcde":
        put(s3, f"many/{name}.txt", name)
    items = list(Prefix(f"s3://{BUCKET}/many").items())
    assert [item.uri for item in items] == [f"{name}.txt" for name in "abcde"]
    assert items[0].modified == s3.head_object(Bucket=BUCKET, Key="many/a.txt")["LastModified"].timestamp()
    assert sum("list-type" in path for path in between.seen) == 3


HARM = [("list-type", "503"), ("list-type", "403"), ("b.txt", "503"), ("b.txt", "flip"), ("b.txt", "cut"), (".quarry.json", "403")]


@pytest.mark.parametrize(("part", "kind"), HARM)
def test_when_s3_fails_nothing_is_deleted_and_the_next_run_does_the_rest(
    s3: Any, between: type[Between], tmp_path: Path, model: Path, part: str, kind: str
) -> None:
    home, address = tmp_path, f"s3://{BUCKET}"
    for name in "ac":
        put(s3, f"{name}.txt", f"The crane {name}.")
    first = sync(Prefix(address), home, model)
    s3.delete_object(Bucket=BUCKET, Key="c.txt")
    put(s3, "a.txt", "The pile a.")
    put(s3, "b.txt", "The new wall.")
    between.harm = {part: kind}
    with pytest.raises(SourceError, match=f"s3://{BUCKET} cannot be|came broken|AccessDenied"):
        sync(Prefix(address), home, model)
    assert {name for (name,) in rows(home, first["generation"], "SELECT document_id FROM documents")} == {"a.txt", "c.txt"}
    between.harm = {}
    found = sync(Prefix(address), home, model)
    assert (found["documents"], found["removed"]) == (2, 1)
    assert rows(home, first["generation"], "SELECT text FROM documents ORDER BY document_id") == [("The pile a.",), ("The new wall.",)]


def test_an_object_that_may_not_be_read_is_recorded_and_does_not_stop_the_others(s3: Any, between: type[Between], tmp_path: Path, model: Path) -> None:
    for name in "ab":
        put(s3, f"{name}.txt", f"The crane {name}.")
    put(s3, "huge.bin", b"x" * 10, Metadata={"quarry-principals": "a" * 300})
    between.harm = {"/a.txt": "403"}
    found = sync(Prefix(f"s3://{BUCKET}"), tmp_path, model)
    assert (found["documents"], [(s["source"], s["code"]) for s in found["skipped"]]) == (1, [("a.txt", "unreadable"), ("huge.bin", "unreadable")])
    source = Prefix(f"s3://{BUCKET}")
    with pytest.raises(Forbidden, match="AccessDenied"):
        source.fetch(next(source.items()), tmp_path / "x")


def test_no_such_bucket_and_no_server_are_told(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="NoSuchBucket"):
        list(Prefix("s3://nowhere/x").items())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SourceError, match="cannot be listed"):
        list(Prefix(f"s3://{BUCKET}").items())


def test_without_credentials_it_is_told(monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path, model: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    done = run(f"s3://{BUCKET}", tmp_path / "home", model)
    assert (done.returncode, "credentials" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
