"""Tokens: what gets in, forgeries that do not, and keys that outlive their issuer's outages."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from quarry_gateway.app import create_app
from quarry_gateway.keys import Keys, KeysError, parse
from quarry_gateway.settings import AuthSettings, Settings
from quarry_gateway.telemetry import JsonFormatter

from .conftest import StandIn
from .issuer import AUDIENCE, ISSUER, b64, bearer, claims, ec_key, jwk, jwks, rsa_key, signed, token

ATTACKER = rsa_key("attacker")
PEM = rsa_key("issuer").public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application, asked in process."""
    app = create_app(settings)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quarry", timeout=30) as made:
        yield made


@pytest.fixture
def guarded(settings: Settings, tmp_path: Path) -> Settings:
    """With tokens, whose keys are in a file."""
    (tmp_path / "jwks.json").write_text(jwks())
    return replace(settings, auth=AuthSettings("jwt", str(tmp_path / "jwks.json"), ISSUER, AUDIENCE))


def now() -> int:
    return int(time.time())


def hs256(secret: bytes, kid: str = "rsa-1", **header: Any) -> str:
    """PyJWT itself refuses a public key as a secret: made by hand."""
    parts = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': kid, **header})}.{b64(claims())}"
    return f"{parts}.{b64(jwt.PyJWS().get_algorithm_by_name('HS256').sign(parts.encode(), secret))}"


def unsigned(alg: str) -> str:
    return f"{b64({'alg': alg, 'typ': 'JWT', 'kid': 'rsa-1'})}.{b64(claims())}."


def twice(name: str, value: Any) -> str:
    """A payload that says `name` again, first of all or last."""
    return json.dumps(claims())[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"


HEADER = b64({"alg": "RS256", "typ": "JWT", "kid": "rsa-1"})
FORGED: dict[str, Callable[[], str]] = {
    "no algorithm": lambda: unsigned("none"),
    "no algorithm, a signature": lambda: unsigned("none") + "AAAA",
    "no algorithm, odd case": lambda: unsigned("nOnE") + "AAAA",
    "the public key as a secret": lambda: hs256(PEM),
    "the key's text as a secret": lambda: hs256(json.dumps(jwk(rsa_key("issuer"), "rsa-1")).encode()),
    "an empty secret": lambda: hs256(b""),
    "a kid that climbs": lambda: hs256(b"", "../../../../dev/null"),
    "a kid nobody knows": lambda: token(kid="rsa-9"),
    "a kid of SQL": lambda: token(kid="x' UNION SELECT 'k", key=ATTACKER),
    "a kid that is no text": lambda: signed(b64({"alg": "RS256", "kid": ["rsa-1"]}), b64(claims())),
    "no kid": lambda: token(kid=None),
    "the kid of another key": lambda: token(kid="ec-1", key=rsa_key("issuer")),
    "another's key": lambda: token(key=ATTACKER),
    "another's key under jku": lambda: token(key=ATTACKER, headers={"jku": "http://127.0.0.1:9/jwks.json"}),
    "another's key under x5u": lambda: token(key=ATTACKER, headers={"x5u": "http://127.0.0.1:9/cert.pem"}),
    "another's key under jwk": lambda: token(key=ATTACKER, headers={"jwk": jwk(ATTACKER, "rsa-1")}),
    "another's key under x5c": lambda: token(key=ATTACKER, headers={"x5c": ["MIIB"]}),
    "another RSA algorithm": lambda: token(algorithm="RS512"),
    "PSS": lambda: token(algorithm="PS256"),
    "expired": lambda: token(claims(exp=now() - 60)),
    "never expires": lambda: token(claims(exp=None)),
    "exp as text": lambda: token(claims(exp="tomorrow")),
    "not yet": lambda: token(claims(nbf=now() + 600)),
    "issued tomorrow": lambda: token(claims(iat=now() + 86_400)),
    "another issuer": lambda: token(claims(iss="https://issuer.example/other")),
    "an issuer that begins alike": lambda: token(claims(iss=ISSUER + "/../other")),
    "no issuer": lambda: token(claims(iss=None)),
    "another audience": lambda: token(claims(aud="other")),
    "an audience list without us": lambda: token(claims(aud=["other", "quarry2"])),
    "no audience": lambda: token(claims(aud=None)),
    "another client of the pool": lambda: token(claims(aud=None, client_id="other")),
    "an identity token": lambda: token(claims(token_use="id")),
    "no subject": lambda: token(claims(sub=None)),
    "an empty subject": lambda: token(claims(sub="")),
    "a subject that is a number": lambda: signed(HEADER, b64({**claims(), "sub": 1})),
    "a subject with a line end": lambda: token(claims(sub="anna\r\nX-Quarry-Submitter: ben")),
    "a subject too long": lambda: token(claims(sub="x" * 300)),
    "groups that are no texts": lambda: token({**claims(), "groups": [{"a": 1}]}),
    "a claim twice": lambda: signed(HEADER, b64(twice("sub", "ben"))),
    "a header twice": lambda: signed(b64('{"alg": "none", "alg": "RS256", "kid": "rsa-1"}'), b64(claims())),
    "a critical extension": lambda: token(headers={"crit": ["b64"], "b64": True}),
    "a logout token": lambda: token(headers={"typ": "logout+jwt"}),
    "64 kB": lambda: token(claims(padding="x" * 64_000)),
    "a zero signature": lambda: f"{b64({'alg': 'ES256', 'kid': 'ec-1'})}.{b64(claims())}.{b64(bytes(64))}",
    "nested": lambda: signed(b64({"alg": "RS256", "kid": "rsa-1", "cty": "JWT"}), b64(token())),
    "deep": lambda: signed(HEADER, b64("[" * 9_000)),
    "changed claims": lambda: ".".join((token().split(".")[0], b64(claims("root")), token().split(".")[2])),
    "cut off": lambda: token()[:-9],
    "five parts": lambda: token() + ".AAAA.AAAA",
    "not base64": lambda: "ö.ö.ö",
    "nothing": lambda: "",
}


async def test_no_forged_token_gets_in_and_none_is_shown(guarded: Settings, upstream: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    assert len(FORGED) >= 40
    caplog.set_level(logging.INFO)
    async with running(guarded) as client:
        for name, make in FORGED.items():
            forged = make()
            reply = await client.post("/v1/answers", json={"question": "q"}, headers={"Authorization": f"Bearer {forged}".encode()})
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthorised"), name
            assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="quarry"'), name
            told = reply.text + str(reply.headers) + "".join(JsonFormatter().format(r) + r.getMessage() for r in caplog.records)
            assert not any(part in told for part in forged.split(".") if len(part) > 8), name
            caplog.clear()
        assert upstream.calls == []
        good = await client.post("/v1/answers", json={"question": "q"}, headers={"Authorization": f"Bearer {token()}"})
        assert good.status_code == 200, "and none of them spoiled anything"
        assert "quarry_gateway_tokens_refused_total" in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    "good",
    [
        lambda: token(),
        lambda: token(kid="ec-1"),
        lambda: token(headers={"typ": "at+jwt"}),
        lambda: token(claims(aud=["other", AUDIENCE])),
        lambda: token(claims(aud=None, client_id=AUDIENCE, token_use="access")),
        lambda: token(claims(exp=now() - 5)),
        lambda: token(claims(nbf=now() + 15, iat=now() + 15)),
    ],
)
async def test_good_tokens(guarded: Settings, good: Callable[[], str]) -> None:
    async with running(guarded) as client:
        for scheme in ("Bearer", "bearer"):
            assert (await client.get("/v1/releases", headers={"Authorization": f"{scheme} {good()}"})).status_code == 200


@pytest.mark.parametrize("headers", [[], [("Authorization", "Basic YTpi")], [("Authorization", f"Bearer {token()}")] * 2, [("Cookie", f"token={token()}")]])
async def test_a_token_comes_by_one_header_only(guarded: Settings, headers: list[tuple[str, str]]) -> None:
    async with running(guarded) as client:
        assert (await client.get("/v1/releases", headers=headers, params={"access_token": token()})).status_code == 401


async def test_an_expired_token_is_told_so(guarded: Settings) -> None:
    async with running(guarded) as client:
        reply = await client.get("/v1/releases", headers={"Authorization": f"Bearer {token(claims(exp=now() - 60))}"})
        assert "expired" in reply.json()["detail"]


class Source:
    """A JWKS address on loopback."""

    def __init__(self) -> None:
        self.body, self.status, self.asked = jwks(), 200, 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/jwks.json", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
        finally:
            await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=self.body, status=self.status)


async def test_keys_are_asked_for_once_and_not_for_every_strange_kid() -> None:
    source = Source()
    async with source.serving() as url:
        keys = Keys(url)
        assert all(await asyncio.gather(*(keys.get("rsa-1") for _ in range(20))))
        assert [await keys.get(f"strange-{n}") for n in range(50)] == [None] * 50
        assert source.asked == 1


async def test_a_new_key_is_found_and_an_old_one_ends() -> None:
    source = Source()
    async with source.serving() as url:
        keys = Keys(url, min_refresh_sec=0, max_age_sec=0)
        assert await keys.get("rsa-1")
        source.body = jwks(jwk(rsa_key("next"), "rsa-2"))
        assert await keys.get("rsa-2")
        assert await keys.get("rsa-1") is None


@pytest.mark.parametrize("outage", ["500", "garbage", "no keys", "huge", "gone"])
async def test_in_an_outage_known_keys_go_on(outage: str) -> None:
    source = Source()
    async with source.serving() as url:
        keys = Keys(url, min_refresh_sec=0, max_age_sec=0)
        assert await keys.get("rsa-1")
        source.status = 500 if outage == "500" else 200
        source.body = {"garbage": "<html>", "no keys": '{"keys": []}', "huge": " " * 300_000 + jwks()}.get(outage, jwks())
        if outage != "gone":
            assert await keys.get("rsa-9") is None
            assert await keys.get("rsa-1")
            assert source.asked > 1
    assert await keys.get("rsa-9") is None
    assert await keys.get("rsa-1")
    await keys.close()


async def test_without_keys_nobody_is_judged_until_they_come(settings: Settings) -> None:
    source = Source()
    source.status = 500
    async with source.serving() as url, running(replace(settings, auth=AuthSettings("jwt", url, ISSUER, AUDIENCE))) as client:
        reply = await client.get("/v1/releases", headers=bearer())
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert "token keys" in (await client.get("/readyz")).json()["detail"]
        assert (await client.get("/healthz")).status_code == 200


def test_only_keys_that_sign_by_our_algorithms_are_taken(tmp_path: Path) -> None:
    good = jwk(rsa_key("issuer"), "rsa-1")
    odd = [{**good, "kid": "enc", "use": "enc"}, {**good, "kid": "pss", "alg": "PS256"}, {"kty": "oct", "k": "AAAA", "kid": "oct"}, {**good, "kid": 7}]
    odd += [{**jwk(ec_key("issuer"), "hs"), "alg": "HS256"}, {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "ed"}]
    assert list(parse(json.dumps({"keys": [*odd, good]}).encode())) == ["rsa-1"]
    for bad in ("", "[]", "{}", '{"keys": 3}', '{"keys": [3]}', json.dumps({"keys": odd}), '{"keys": [{"kty": "RSA", "kid": "a"}]}'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(KeysError):
            Keys(str(tmp_path / "bad.json"))
    with pytest.raises(KeysError, match="cannot be read"):
        Keys(str(tmp_path / "none.json"))


async def test_a_short_key_signs_nothing(guarded: Settings) -> None:
    weak = rsa_key("weak", 1024)
    Path(guarded.auth.jwks).write_text(jwks(jwk(weak, "weak"), jwk(rsa_key("issuer"), "rsa-1")))
    async with running(guarded) as client:
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            forged = token(kid="weak", key=weak)
        assert (await client.get("/v1/releases", headers={"Authorization": f"Bearer {forged}"})).status_code == 401
        assert (await client.get("/v1/releases", headers=bearer())).status_code == 200


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"AUTH": "jtw"}, "none or jwt"),
        ({"AUTH": "jwt", "JWKS": "x", "ISSUER": "i"}, "AUDIENCE"),
        ({"AUTH": "jwt", "JWKS": "http://issuer.example/jwks.json", "ISSUER": "i", "AUDIENCE": "a"}, "https"),
        ({"WRITE_SCOPE": 'a" b'}, "WRITE_SCOPE"),
        ({"ALLOW_ANONYMOUS_WRITES": "yes"}, "false or true"),
    ],
)
def test_settings_that_would_let_anyone_in_are_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"QUARRY_GATEWAY_{name}", value)
    with pytest.raises(SystemExit, match=says):
        Settings.from_environment()
