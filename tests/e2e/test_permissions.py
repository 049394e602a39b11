"""Who may read what, through every endpoint: with hidden documents in the index, each reply is the one given where there are none."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt.algorithms import ECAlgorithm

from .machine import WORDS, Machine, bind_parts, environment_of, ingest, make_models

ISSUER, AUDIENCE = "https://issuer.test", "quarry"
RETRIEVALS = ("dense", "bm25", "tfidf", "hybrid")
HIDDEN = {"secret.txt": "It is word3 word7 word11.", "vault/word19.md": "# word19\n\nIt is word19 word3 word3 word7."}


@dataclass(frozen=True)
class Caller:
    """Someone with a token, and a gateway to ask."""

    machine: Machine
    token: str

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and body, without what differs from request to request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.machine.gateway + path, body, {"Authorization": f"Bearer {self.token}", **named}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                status, found = reply.status, dict(json.load(reply))
        except urllib.error.HTTPError as error:
            status, found = error.code, dict(json.load(error))
        return status, {name: value for name, value in found.items() if name not in ("request_id", "instance")}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """JSON."""
        return self.send("POST", path, json.dumps(body).encode(), Content_Type="application/json")

    def job(self, method: str, document_id: str, body: bytes | None = None, **headers: str) -> dict[str, Any]:
        """A change, followed to its end."""
        status, job = self.send(method, f"/v1/documents/{document_id}", body, **headers)
        assert status == 202, job
        while job["state"] in ("queued", "running"):
            time.sleep(0.05)
            status, job = self.send("GET", f"/v1/jobs/{job['job_id']}")
            assert status == 200, job
        return job


@pytest.fixture(scope="module")
def key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def token(key: EllipticCurvePrivateKey, subject: str, groups: list[str], scope: str = "") -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups, "scope": scope, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, key, "ES256", {"kid": "k1"})


def prepared(home: Path, key: EllipticCurvePrivateKey, hidden: dict[str, str]) -> Machine:
    """A stack to be started with tokens on, documents for everyone, and these for group `inner` alone."""
    make_models(home)
    documents = home / "documents"
    documents.mkdir()
    for i, word in enumerate(WORDS):
        (documents / f"{i}.txt").write_text(f"It is {word} {WORDS[i - 5]}.")
    for name, text in hidden.items():
        (documents / name).parent.mkdir(exist_ok=True)
        (documents / name).write_text(text)
    rules = {"principals": {name: ["group:inner"] for name in HIDDEN}}
    (documents / ".quarry.json").write_text(json.dumps(rules))
    ingest(home, str(documents))
    identity = bind_parts(home, 1, 1)
    jwk = json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": "k1", "use": "sig", "alg": "ES256"}
    (home / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    auth = {"AUTH": "jwt", "JWKS": str(home / "jwks.json"), "ISSUER": ISSUER, "AUDIENCE": AUDIENCE}
    made = Machine(home, environment_of(home) | {f"QUARRY_GATEWAY_{name}": value for name, value in auth.items()}, {"a": identity})
    made.environment["QUARRY_TOKEN"] = token(key, "operator", [])
    return made


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, key: EllipticCurvePrivateKey) -> Iterator[tuple[Machine, Machine]]:
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


def requests() -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Everything that can be asked, where hidden words would make a difference if they counted."""
    for retrieval in RETRIEVALS:
        for question in ("which word3 is it", "what is word7 of", "who is word19 for", "word11 word3 word19"):
            yield "POST", "/v1/search", {"question": question, "retrieval": retrieval, "top_k": 40}
            yield "POST", "/v1/answers", {"question": question, "retrieval": retrieval, "top_k": 20, "min_confidence": 0}
        for filters in ({"document_id": "secret.txt"}, {"document_id": "absent.txt"}, {"format": "md"}, {"no_such_field": 1}, {"title": "word19"}):
            yield "POST", "/v1/search", {"question": "which word3 is it", "retrieval": retrieval, "filters": filters}
    for name in (*HIDDEN, "absent.txt", "3.txt"):
        for query in ("", "?start=0&end=5", "?version=" + "0" * 64):
            yield "GET", f"/v1/documents/{urllib.parse.quote(name)}{query}", None
    yield "GET", "/v1/jobs/" + "0" * 32, None


def ask(caller: Caller, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
    return caller.send(method, path) if body is None else caller.post(path, body)


def test_hidden_documents_change_no_reply_to_who_may_not_read_them(machines: tuple[Machine, Machine], key: EllipticCurvePrivateKey) -> None:
    outsider, insider = token(key, "olga", ["outer"]), token(key, "ines", ["inner"])
    differing = 0
    for method, path, body in requests():
        seen = ask(Caller(machines[0], outsider), method, path, body)
        assert seen == ask(Caller(machines[1], outsider), method, path, body), (path, body)
        assert not any(name in json.dumps(seen) for name in HIDDEN), (path, body)
        differing += ask(Caller(machines[0], insider), method, path, body) != seen
    assert differing > 20, "for who may read them, they do make a difference"
    for name in HIDDEN:
        hidden, absent = (Caller(machines[0], outsider).send("GET", f"/v1/documents/{urllib.parse.quote(n)}") for n in (name, "absent.txt"))
        assert hidden == absent
        assert hidden[0] == 404


def test_principals_come_from_the_token_and_from_nowhere_else(machines: tuple[Machine, Machine], key: EllipticCurvePrivateKey) -> None:
    caller = Caller(machines[0], token(key, "olga", ["outer"]))
    for path in ("/v1/search", "/v1/answers"):
        status, problem = caller.post(path, {"question": "which word3 is it", "principals": ["group:inner"]})
        assert (status, problem["code"]) == (400, "invalid_request")
    found = caller.send("GET", "/v1/documents/secret.txt?principals=group:inner", X_Quarry_Principals="group:inner")
    assert found[0] == 404
    assert Caller(machines[0], caller.token[:-4] + "AAAA").post("/v1/search", {"question": "word3"})[0] == 401
    assert Caller(machines[0], token(key, "inner", ["Inner", "group:inner", "*"])).send("GET", "/v1/documents/secret.txt")[0] == 404


def test_documents_are_put_found_revoked_and_forgotten_while_it_runs(machines: tuple[Machine, Machine], key: EllipticCurvePrivateKey) -> None:
    writer, reader = (Caller(machines[0], token(key, "wim", [], "quarry:write")), Caller(machines[0], token(key, "ria", ["readers"])))
    assert reader.send("PUT", "/v1/documents/note.txt", b"It is word21.", Content_Type="text/plain")[0] == 403
    put = {"body": b"It is word21 word22.", "Content_Type": "text/plain"}
    job = writer.job("PUT", "note.txt", **put, X_Quarry_Principals="group:readers")  # type: ignore[arg-type]
    assert (job["state"], job["passages"]) == ("done", 1), job
    other = Caller(machines[0], token(key, "otto", [], "quarry:write"))
    assert other.send("GET", f"/v1/jobs/{job['job_id']}")[0] == 404, "a job is its submitter's"

    def visible() -> bool:
        found = reader.post("/v1/search", {"question": "which word21 is it", "retrieval": "bm25"})[1]["passages"]
        return any(p["passage"]["document_id"] == "note.txt" for p in found)

    def until(wanted: bool) -> None:
        give_up = time.monotonic() + 20
        while visible() is not wanted:
            assert time.monotonic() < give_up
            time.sleep(0.05)

    until(True)
    assert writer.job("PUT", "note.txt", **put, X_Quarry_Principals="group:others")["state"] == "done"  # type: ignore[arg-type]
    until(False)
    assert reader.send("GET", "/v1/documents/note.txt")[0] == 404
    assert writer.job("PUT", "note.txt", **put, X_Quarry_Principals="group:readers")["state"] == "done"  # type: ignore[arg-type]
    until(True)
    assert writer.job("DELETE", "note.txt?forget=true")["state"] == "done"
    until(False)
    assert writer.send("GET", "/v1/documents/note.txt")[0] == 404
    index = machines[0].home / "index"
    assert not any(b"word21 word22." in path.read_bytes() for path in index.rglob("*") if path.is_file())
