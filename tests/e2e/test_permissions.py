"""Who may read what, through every endpoint: with hidden documents in the index, each reply is byte for byte the one given where there are none."""

import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from .conftest import CLONE
from .machine import Machine, ingest, run_python
from .worlds import HIDDEN, RETRIEVALS, SECRETS, Asked, Caller, prepared, put, questions, rest, searches, timeless, token

COUNTED = ("quarry_index_revision", "quarry_index_passages", "quarry_index_documents")  # the retriever's metrics that tell how much there is
Machines = tuple[Machine, Machine]
MOTO = """from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()"""
OBJECT = """import boto3, sys
s3 = boto3.client("s3")
s3.create_bucket(Bucket="papers")
s3.put_object(Bucket="papers", Key="object.txt", Body=b"It is word21 word22.", Metadata={"quarry-principals": sys.argv[1]})"""


@pytest.fixture(scope="module")
def key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, key: EllipticCurvePrivateKey) -> Iterator[Machines]:
    """With hidden documents, and without."""
    started: list[Machine] = []
    try:
        for name, hidden in (("with", HIDDEN), ("without", {})):
            started.append(prepared(tmp_path_factory.mktemp(name), key, hidden))
            started[-1].stack("promote", started[-1].ids["a"])
            started[-1].stack("up", "gateway")
        yield started[0], started[1]
    finally:
        for machine in started:
            machine.stack("down")


def service(machine: Machine, name: str) -> Caller:
    """Straight to a service behind the gateway, as the gateway asks it."""
    [path] = (machine.home / "run").glob(f"{name}*.pid")
    return Caller(f"http://127.0.0.1:{path.read_text().split()[2]}")


def printed(machine: Machine, before: dict[str, str] | None = None) -> dict[str, str]:
    """What the services logged, without times and addresses; after what they had logged before."""
    texts = {path.stem: timeless(path.read_text()) for path in (machine.home / "run").glob("*.log")}
    return {name: text[len((before or {}).get(name, "")) :] for name, text in texts.items()}


def metrics(service: Caller) -> list[str]:
    """Without times, and without what was asked of it while it started."""
    lines = timeless(service.raw("GET", "/metrics")[2]).splitlines()
    return [line for line in lines if 'route="/readyz"' not in line]


def same(machines: Machines, key_token: str, asked: Asked) -> tuple[int, list[tuple[str, str]], str]:
    """Asked in both worlds: the reply, which is the same."""
    one, other = (put(Caller(machine.gateway, key_token), asked) for machine in machines)
    assert one == other, asked
    return one


def test_nothing_that_can_be_asked_tells_of_hidden_documents(machines: Machines, key: EllipticCurvePrivateKey) -> None:
    olga, writer, nobody = token(key, "olga", ["outer"]), token(key, "wim", [], "quarry:write"), ""
    begun = [printed(machine) for machine in machines]
    for asked in (*questions(), *rest()):
        *_, body = same(machines, olga, asked)
        if asked[1].startswith("/v1/"):
            assert not any(secret in body for secret in SECRETS), asked
    for asked in (*list(questions())[::7], *rest()):
        same(machines, writer, asked)
        same(machines, nobody, asked)
    for method in ("GET", "HEAD", "POST"):
        absent = same(machines, olga, (method, "/v1/documents/absent.txt", None))
        assert all(same(machines, olga, (method, f"/v1/documents/{urllib.parse.quote(name)}", None)) == absent for name in HIDDEN)
    one, other = (metrics(Caller(machine.gateway)) for machine in machines)
    assert one == other and any('route="/v1/search"' in line for line in one)
    logs, others = (printed(machine, before) for machine, before in zip(machines, begun, strict=True))
    assert logs == others and logs["gateway"].count("\n") > 300
    assert not any(secret in text for text in logs.values() for secret in SECRETS)


def test_the_retriever_itself_tells_nothing_but_how_much_there_is(machines: Machines) -> None:
    with_them, without = (service(machine, "retriever") for machine in machines)
    ranges = [{"document_id": name, "start": 0, "end": 9} for name in (*HIDDEN, "absent.txt", "3.txt")]
    messages: list[dict[str, Any]] = [{"search": asked} for asked in searches()]
    messages += [{"documents": {"ranges": ranges}}, {"documents": {"ranges": [ranges[0] | {"version": "x"}]}}, {"search": {}}, {"documents": {}}]
    for principals in ([], ["user:olga", "group:outer", "*", "group:INNER"]):
        for message in messages:
            [(kind, content)] = message.items()
            body = {"jsonData": {kind: {**content, "principals": principals} if content else {}}}
            for path in ("/api/v1.0/predictions", "/predict"):
                asked = ("POST", path, body)
                assert put(with_them, asked) == put(without, asked), asked
    for path in ("/health/status", "/health/ping", "/readyz", "/nowhere"):
        assert with_them.raw("GET", path) == without.raw("GET", path)
    one, other = (timeless(asked.raw("GET", "/metadata")[2]) for asked in (with_them, without))
    assert one == other, "but for the revision"
    differing = set(metrics(with_them)) ^ set(metrics(without))
    assert {line.split()[0] for line in differing} == set(COUNTED)


def test_what_insiders_asked_before_changes_nothing_for_others(machines: Machines, key: EllipticCurvePrivateKey) -> None:
    olga, ines = token(key, "olga", ["outer"]), token(key, "ines", ["inner"])
    differing = 0
    for asked in list(questions())[::3]:
        inside = put(Caller(machines[0].gateway, ines), asked)
        differing += same(machines, olga, asked) != inside
    assert differing > 20, "for who may read them, they do make a difference"


def test_principals_come_from_the_token_and_from_nowhere_else(machines: Machines, key: EllipticCurvePrivateKey) -> None:
    caller = Caller(machines[0].gateway, token(key, "olga", ["outer"]))
    for path in ("/v1/search", "/v1/answers"):
        status, problem = caller.post(path, {"question": "which word3 is it", "principals": ["group:inner"]})
        assert (status, problem["code"]) == (400, "invalid_request")
    found = caller.send("GET", "/v1/documents/secret.txt?principals=group:inner", X_Quarry_Principals="group:inner")
    assert found[0] == 404
    assert Caller(caller.url, caller.token[:-4] + "AAAA").post("/v1/search", {"question": "word3"})[0] == 401
    assert Caller(caller.url, token(key, "inner", ["Inner", "group:inner", "*"])).send("GET", "/v1/documents/secret.txt")[0] == 404


@pytest.mark.parametrize("name", ["secret.txt", "damaged.pdf", "many.txt"])
def test_changes_tell_nothing_of_what_they_change(machines: Machines, key: EllipticCurvePrivateKey, name: str) -> None:
    wim, other = token(key, "wim", [], "quarry:write"), token(key, "otto", [], "quarry:write")
    text: dict[str, Any] = {"Content_Type": "text/plain"}

    def change(method: str, query: str = "", body: bytes | None = None, **headers: str) -> None:
        path = f"/v1/documents/{name}"
        one, two = (Caller(machine.gateway, wim).raw(method, path + query, body, **headers) for machine in machines)
        assert (one[0], one) == (202, two)
        told = [Caller(machine.gateway, wim).job(method, name + query, body, **headers) for machine in machines]
        assert told[0] == told[1]
        for asked in (path, f"{path}?start=0&end=5"):
            same(machines, wim, ("GET", asked, None))
            same(machines, other, ("GET", asked, None))  # never sees it, so that both retrievers now look for what changed
        for retrieval in RETRIEVALS:
            same(machines, wim, ("POST", "/v1/search", {"question": "which word3 is it", "retrieval": retrieval, "top_k": 40}))

    change("PUT", body=b"\x00\x01\x02 no text", **text)
    if name == "secret.txt":
        change("DELETE", "?forget=true")
    elif name == "damaged.pdf":
        change("DELETE")
    change("PUT", body=b"It is word3 word5.", **text)
    change("PUT", body=b"It is word3 word5.", **text, X_Quarry_Principals="group:board")
    change("DELETE")
    change("DELETE", "?forget=true")
    one, two = (metrics(service(machine, "ingestion")) for machine in machines)
    assert one == two and any("quarry_ingestion_finished_total" in line for line in one)


def test_documents_are_put_found_revoked_and_forgotten_while_it_runs(machines: Machines, key: EllipticCurvePrivateKey) -> None:
    writer, reader = Caller(machines[0].gateway, token(key, "wim", [], "quarry:write")), Caller(machines[0].gateway, token(key, "ria", ["readers"]))
    assert reader.send("PUT", "/v1/documents/note.txt", b"It is word21.", Content_Type="text/plain")[0] == 403
    text: dict[str, Any] = {"body": b"It is word21 word22.", "Content_Type": "text/plain"}
    job = writer.send("PUT", "/v1/documents/note.txt", **text, X_Quarry_Principals="group:readers")[1]
    other = Caller(machines[0].gateway, token(key, "otto", [], "quarry:write"))
    assert other.send("GET", f"/v1/jobs/{job['job_id']}")[0] == 404, "a job is its submitter's"
    assert writer.job("PUT", "note.txt", **text, X_Quarry_Principals="group:readers")["passages"] == 1
    until_seen(reader, "note.txt")
    assert writer.job("PUT", "note.txt", **text, X_Quarry_Principals="group:others")["state"] == "done"
    assert not seen(reader, "note.txt"), "at once"
    assert writer.job("PUT", "note.txt", **text, X_Quarry_Principals="group:readers")["state"] == "done"
    until_seen(reader, "note.txt")
    assert writer.job("DELETE", "note.txt?forget=true")["state"] == "done"
    assert not seen(reader, "note.txt")
    index = machines[0].home / "index"
    assert not any(b"word21 word22." in path.read_bytes() for path in index.rglob("*") if path.is_file())


def test_what_a_source_revokes_is_gone_from_every_way_when_the_run_ends(
    machines: Machines, key: EllipticCurvePrivateKey, s3: Callable[[str], None], tmp_path: Path
) -> None:
    ria, home = Caller(machines[0].gateway, token(key, "ria", ["readers"])), machines[0].home
    (tmp_path / "memo.txt").write_text("It is word21 word22.")

    def folder(reader: str) -> None:
        (tmp_path / ".quarry.json").write_text(json.dumps({"principals": {"*": [reader]}}))

    for allow, source, name in ((folder, str(tmp_path), f".{tmp_path.name}/memo.txt"), (s3, "s3://papers", ".papers/object.txt")):
        allow("group:readers")
        ingest(home, source)
        until_seen(ria, name)
        allow("group:others")
        ingest(home, source)
        assert not seen(ria, name), "at once, without waiting for the retriever to look for changes"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put an object for a reader into a bucket of a moto server, where boto3 now looks."""
    python = str(CLONE / "pipelines/ingestion/.venv/bin/python")
    with subprocess.Popen([python, "-c", MOTO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        told = {"ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}", "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}
        for name, value in {**told, "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield lambda reader: run_python("pipelines/ingestion", "-c", OBJECT, reader)
        server.terminate()


def seen(caller: Caller, document_id: str) -> list[str]:
    """By which ways any of a document reaches a caller."""
    found = []
    for retrieval in RETRIEVALS:
        for path, more in (("/v1/search", {}), ("/v1/answers", {"min_confidence": 0})):
            for filters in ({}, {"document_id": document_id}):
                asked = {"question": "which word21 is it", "retrieval": retrieval, "top_k": 40, "filters": filters, **more}
                status, reply = caller.post(path, asked)
                found += [f"{path} {retrieval}"] if status != 200 or document_id in json.dumps(reply) else []
    return found + (["/v1/documents"] if caller.send("GET", f"/v1/documents/{document_id}")[0] != 404 else [])


def until_seen(caller: Caller, document_id: str) -> None:
    """Wait until every way leads to it."""
    give_up = time.monotonic() + 30
    while len(seen(caller, document_id)) < 4 * len(RETRIEVALS) + 1:
        assert time.monotonic() < give_up, seen(caller, document_id)
        time.sleep(0.1)
