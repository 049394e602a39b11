"""Two stacks whose visible documents are the same, one with hidden documents besides: replies as bytes, and all that can be asked."""

import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from jwt.algorithms import ECAlgorithm

from .machine import WORDS, Machine, bind_parts, environment_of, ingest, make_models

ISSUER, AUDIENCE = "https://issuer.test", "quarry"
RETRIEVALS = ("dense", "bm25", "tfidf", "hybrid")
HIDDEN = {
    "secret.txt": "It is word3 word7 word11.",
    "vault/word19.md": "# word19\n\nIt is word19 word3 word3 word7.",
    "0-first.csv": "word3;zyzzyva\nword7;word11\n",
    "many.txt": "\n\n".join(f"It is word{i % 24} word3 zyzzyva." for i in range(300)),
    "damaged.pdf": "%PDF-1.7 word3",  # known to the ledger alone
}
SECRETS = ("zyzzyva", "secret.txt", "vault/", "0-first", "many.txt", "damaged.pdf")
# What differs from one request or process to the next, in bodies, headers, logs and metrics.
VOLATILE = [
    (re.compile(r'("(?:job_id|created|finished|routing)": )"[^"]*"'), r"\1-"),
    (re.compile(r"/v1/jobs/[0-9a-f]{32}"), "/v1/jobs/-"),
    (re.compile(r"127\.0\.0\.1:\d+"), "-"),
]
TIMES = [
    (re.compile(r'"(@timestamp|event\.duration_ms|quarry\.\w+_ms|quarry\.job|revision|http\.request\.id)": ("[^"]*"|[\d.]+)'), r'"\1": -'),
    (re.compile(r"(?m)^\w+_(bucket|sum|created)(\{.*\})? .*\n"), ""),
]


@dataclass(frozen=True)
class Caller:
    """Someone with a token, or none, and an address to ask."""

    url: str
    token: str = ""

    def raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, list[tuple[str, str]], str]:
        """Status, headers in their order and body, as they came, but for the date and what VOLATILE names."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        with closing(http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)) as line:
            line.request(method, path, body, {"X-Request-Id": "r-1", **named})
            reply = line.getresponse()
            return reply.status, [(n, masked(v)) for n, v in reply.getheaders() if n.lower() != "date"], masked(reply.read().decode())

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        with closing(http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)) as line:
            line.request(method, path, body, named)
            reply = line.getresponse()
            return reply.status, dict(json.loads(reply.read()))

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
        return {name: value for name, value in job.items() if name not in ("job_id", "created", "finished", "request_id")}


def masked(text: str) -> str:
    """Without what differs from request to request."""
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return text


def timeless(text: str) -> str:
    """A log or metrics without times."""
    for pattern, instead in (*VOLATILE, *TIMES):
        text = pattern.sub(instead, text)
    return text


def token(key: EllipticCurvePrivateKey, subject: str, groups: list[str], scope: str = "") -> str:
    """One that the gateway takes."""
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


Asked = tuple[str, str, dict[str, Any] | None]


def searches() -> Iterator[dict[str, Any]]:
    """Where hidden words, fields and documents would make a difference if they counted: every mode, filters of every kind, small and large top_k."""
    for retrieval in RETRIEVALS:
        for question in ("which word3 is it", "what is word7 of", "who is word19 for", "zyzzyva", "word11 word3 word19"):
            for top_k in (1, 40):
                yield {"question": question, "retrieval": retrieval, "top_k": top_k}
        one, absent, some = {"document_id": "secret.txt"}, {"document_id": "absent.txt"}, {"document_id": ["secret.txt", "many.txt", "3.txt"]}
        for filters in (one, absent, some, {"format": "md"}, {"no_such_field": 1}, {"title": "word19"}, {"page": 1}):
            yield {"question": "which word3 is it", "retrieval": retrieval, "filters": filters}


def questions() -> Iterator[Asked]:
    """What depends on documents."""
    for asked in searches():
        yield "POST", "/v1/search", asked
        yield "POST", "/v1/answers", {**asked, "min_confidence": 0}
    for name in (*HIDDEN, "absent.txt", "3.txt", "vault"):
        for query in ("", "?start=0&end=5", "?start=5", "?start=999999", "?version=" + "0" * 64, "?start=-1", "?start=0&end=999999999"):
            yield "GET", f"/v1/documents/{urllib.parse.quote(name)}{query}", None
        for method in ("HEAD", "POST", "PATCH", "OPTIONS"):
            yield method, f"/v1/documents/{urllib.parse.quote(name)}", None


def rest() -> Iterator[Asked]:
    """Everything else the gateway has."""
    yield "POST", "/v1/answers", {"question": "which word3 is it", "stream": True}
    yield "POST", "/v1/answers", {"question": "which word3 is it", "mode": "generative"}
    yield "POST", "/v1/search", {"question": "which word3 is it", "principals": ["group:inner"]}
    for path in ("/v1/jobs/" + "0" * 32, "/v1/jobs/secret.txt", "/v1/releases/current", "/v1/releases", "/v1/documents/", "/v1/documents"):
        yield "GET", path, None
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/docs-files/swagger-ui.css", "/docs-files/secret.txt", "/secret.txt"):
        yield "GET", path, None


def put(caller: Caller, asked: Asked) -> tuple[int, list[tuple[str, str]], str]:
    """One request, raw."""
    method, path, body = asked
    return caller.raw(method, path) if body is None else caller.raw(method, path, json.dumps(body).encode(), Content_Type="application/json")
