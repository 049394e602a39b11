"""The issuer's public keys (JWKS, RFC 7517), from a file or a URL; kept while the issuer is away."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
from quarry_contract.codec import loads
from quarry_contract.errors import ErrorCode, QuarryError

from .telemetry import log

ALGORITHMS = ["RS256", "ES256"]
MIN_REFRESH_SEC = 10.0  # between two looks at the source, whatever tokens say
MAX_AGE_SEC = 300.0  # then it is looked at again, so that a key taken back stops working
FETCH_TIMEOUT_SEC = 2.0
MAX_BYTES = 256_000


class KeysError(Exception):
    """The keys cannot be used; the message says why."""


class Keys:
    """Keys by `kid`. A source that fails changes nothing: the keys known go on."""

    def __init__(self, source: str, min_refresh_sec: float = MIN_REFRESH_SEC, max_age_sec: float = MAX_AGE_SEC) -> None:
        """Raises KeysError when `source` is a file that cannot be used; a URL may come up later."""
        self._source = source
        self._min_refresh_sec, self._max_age_sec = min_refresh_sec, max_age_sec
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")  # on time.monotonic()'s clock
        self._looking: asyncio.Task[None] | None = None
        if not is_url(source):
            self._take(_read(source))

    @property
    def known(self) -> bool:
        """Whether there are any."""
        return bool(self._keys)

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """The key, looked for anew when it is not known and the last look is long enough ago.

        Raises:
            QuarryError: `not_ready`, no keys were ever had.
        """
        found = self._keys.get(kid)
        if found is None:
            await self.refresh()
            found = self._keys.get(kid)
        elif time.monotonic() - self._fetched > self._max_age_sec:
            self._look()  # a known key's caller does not wait for the issuer
        if not self._keys:
            raise QuarryError(ErrorCode.NOT_READY, "the keys to check tokens with cannot be had yet", retry_after_sec=1)
        return found

    async def refresh(self) -> None:
        """Look now, unless that was done just before; whoever comes meanwhile waits for the same look."""
        if looking := self._look():
            await asyncio.shield(looking)

    def _look(self) -> asyncio.Task[None] | None:
        if self._looking is None and time.monotonic() - self._tried >= self._min_refresh_sec:
            self._tried = time.monotonic()
            self._looking = asyncio.create_task(self._refresh())
        return self._looking

    async def _refresh(self) -> None:
        try:
            self._take(await _fetch(self._source) if is_url(self._source) else await asyncio.to_thread(_read, self._source))
        except KeysError as error:
            log.warning("token keys not refreshed: %s", error)
        finally:
            self._looking = None

    def _take(self, body: bytes) -> None:
        self._keys = parse(body)
        self._fetched = self._tried = time.monotonic()

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)


def is_url(source: str) -> bool:
    """Whether keys come by HTTP."""
    return urlsplit(source).scheme in ("https", "http")


def parse(body: bytes) -> dict[str, jwt.PyJWK]:
    """The keys that sign by our algorithms, by `kid`; others, as for encryption, are left out.

    Raises:
        KeysError: it is no JWKS, or holds none.
    """
    if len(body) > MAX_BYTES:
        raise KeysError(f"the JWKS is larger than {MAX_BYTES} bytes")
    try:
        listed = loads(body)["keys"]
        found = {k["kid"]: jwt.PyJWK(k) for k in listed if _signs(k)}
    except (QuarryError, jwt.PyJWTError, KeyError, TypeError, ValueError):
        raise KeysError("the keys are not a JWKS (RFC 7517)") from None
    if not found:
        raise KeysError("the JWKS holds no key with a kid for RS256 or ES256")
    return found


def _signs(key: Any) -> bool:
    if not isinstance(key, dict):
        return False
    kind = (key.get("kty"), key.get("alg", "RS256" if key.get("kty") == "RSA" else "ES256"))
    wanted = kind in (("RSA", "RS256"), ("EC", "ES256")) and (kind[0] == "RSA" or key.get("crv") == "P-256")
    return wanted and isinstance(key.get("kid"), str) and key.get("use", "sig") == "sig" and "verify" in key.get("key_ops", ["verify"])


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeysError(f"the JWKS file cannot be read: {error.strerror}") from None


async def _fetch(url: str) -> bytes:
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SEC)) as session, session.get(url, allow_redirects=False) as reply:
            if reply.status != 200:
                raise KeysError(f"the JWKS address answers {reply.status}")
            body = await reply.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and (more := await reply.content.read(MAX_BYTES)):
                body += more
            return body
    except (TimeoutError, aiohttp.ClientError) as error:
        raise KeysError(f"the JWKS address cannot be asked: {type(error).__name__}") from None
