"""Uploads of 150 MB through the real gateway and ingestion service: refused early, or taken whole, and never held in memory."""

import http.client
import json
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from quarry_contract.releases import release_path

from .conftest import CLONE
from .machine import bind_parts, environment_of, ingest, make_models

LIMIT = 150_000_000
PART = bytes(1_000_000)
MOST_GROWTH_KB = 60_000  # of a process's peak memory, for a body of 150 MB
TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/><Default Extension="rels" ContentType='
    '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="bin" ContentType="image/png"/></Types>'
)
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type='
    '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>'
)
DOCUMENT = (
    '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>'
    "It is word3 beside a large picture.</w:t></w:r></w:p></w:body></w:document>"
)


@dataclass(frozen=True)
class Service:
    """A process that was started here."""

    process: "subprocess.Popen[bytes]"
    port: int

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as line:
            line.request(method, path, body, headers or {})
            reply = line.getresponse()
            return reply.status, dict(json.loads(reply.read()))

    def peak_kb(self) -> int:
        """Of its memory, since its start."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])


def started(project: str, module: list[str], port: int, environment: dict[str, str], log: Path) -> Service:
    with log.open("wb") as output:
        process = subprocess.Popen([str(CLONE / project / ".venv/bin/python"), "-m", *module], env=environment, stdout=output, stderr=output)
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            return Service(process, port)
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def services(home: Path) -> Iterator[tuple[Service, Service]]:
    """Gateway and ingestion; both are warm."""
    make_models(home)
    (home / "documents").mkdir()
    (home / "documents" / "a.txt").write_text("It is word1.")
    ingest(home, str(home / "documents"))
    identity = bind_parts(home, 1, 1)
    outer = environment_of(home)
    ports = {name: int(outer[f"QUARRY_{name}_PORT"]) for name in ("GATEWAY", "INGESTION")}
    told = {"RELEASE": str(release_path(home, identity)), "INGESTION_URL": f"http://127.0.0.1:{ports['INGESTION']}", "ALLOW_ANONYMOUS_WRITES": "true"}
    environment = outer | {f"QUARRY_GATEWAY_{name}": value for name, value in told.items()}
    environment |= {f"QUARRY_{name}_MAX_UPLOAD_BYTES": str(LIMIT) for name in ports}
    made: list[Service] = []
    try:
        made.append(started("pipelines/ingestion", ["quarry_ingestion", "serve", "--home", str(home)], ports["INGESTION"], environment, home / "i.log"))
        made.append(started("services/gateway", ["quarry_gateway"], ports["GATEWAY"], environment, home / "g.log"))
        assert followed(made[1], "warm.txt", b"It is word2.")["state"] == "done"
        yield made[1], made[0]
    finally:
        for service in made:
            service.process.terminate()
            service.process.wait(30)


def followed(gateway: Service, name: str, body: Any) -> dict[str, Any]:
    """A document put, and its job at its end."""
    status, job = gateway.ask("PUT", f"/v1/documents/{name}", body)
    assert status == 202, job
    while job["state"] in ("queued", "running"):
        time.sleep(0.05)
        job = gateway.ask("GET", f"/v1/jobs/{job['job_id']}")[1]
    return job


def refused(service: Service, path: str, headers: str, most: int) -> int:
    """Send no more than the head and up to `most` bytes in chunks; how many were sent when the refusal came."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as line:
        line.sendall(f"PUT {path} HTTP/1.1\r\nHost: a\r\nX-Quarry-Principals: *\r\n{headers}\r\n\r\n".encode())
        sent, reply = 0, b""
        line.setblocking(False)
        left = memoryview(b"")
        until = time.monotonic() + 60
        while b"too_large" not in reply:
            assert time.monotonic() < until, reply
            try:
                reply += line.recv(65_536)
                continue
            except BlockingIOError:
                pass
            if not left and sent < most:
                left, sent = memoryview(b"%x\r\n%b\r\n" % (len(PART), PART)), sent + len(PART)
            try:
                left = left[line.send(left) :]
            except BlockingIOError:
                time.sleep(0.001)
    assert reply.startswith(b"HTTP/1.1 413 ") and b"150000000 bytes" in reply
    return sent


def picture_book(path: Path, size: int) -> Path:
    """A Word file of `size` bytes, nearly all of them a picture."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (("[Content_Types].xml", TYPES), ("_rels/.rels", RELATIONS), ("word/document.xml", DOCUMENT)):
            archive.writestr(name, text)
        archive.writestr("word/media/image1.bin", bytes(size - 3_000))
    assert size - 3_000 < path.stat().st_size <= size
    return path


def test_150_mb_are_refused_early_or_taken_whole_in_bounded_memory(services: tuple[Service, Service], home: Path) -> None:
    gateway, ingestion = services
    before = [service.peak_kb() for service in services]
    for service, path in ((gateway, "/v1/documents/big.txt"), (ingestion, "/documents/big.txt")):
        assert refused(service, path, f"Content-Length: {LIMIT + 1}", 0) == 0, "before a byte of it"
        assert refused(service, path, "Content-Length: 9" + "9" * 18, 0) == 0
    sent = refused(gateway, "/v1/documents/big.txt", "Transfer-Encoding: chunked", LIMIT + 20_000_000)
    assert LIMIT < sent <= LIMIT + 20_000_000
    until = time.monotonic() + 30
    while list((home / "uploads").iterdir()):
        assert time.monotonic() < until, "what was refused is not kept"
        time.sleep(0.05)
    with picture_book(home / "book.docx", LIMIT).open("rb") as book:
        assert followed(gateway, "book.docx", book)["passages"] == 1
    (home / "book.docx").unlink()
    job = followed(gateway, "zeros.txt", (PART for _ in range(LIMIT // len(PART))))
    assert (job["state"], job["code"]) == ("failed", "not_text")
    growth = [service.peak_kb() - peak for service, peak in zip(services, before, strict=True)]
    assert max(growth) < MOST_GROWTH_KB, growth
    assert not list((home / "uploads").iterdir())
    assert gateway.ask("GET", "/healthz")[0] == ingestion.ask("GET", "/readyz")[0] == 200
