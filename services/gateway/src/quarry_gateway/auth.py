"""Who asks: bearer tokens (JWT, RFC 7519) checked against the issuer's keys, as RFC 8725 advises. Nothing of a token is logged or sent back.

Formats: the claims of RFC 9068 access tokens, and those of Amazon Cognito's (`client_id` for `aud`, `token_use`, `cognito:groups`).
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.utils import base64url_decode
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import MAX_PRINCIPAL_CHARS, MAX_PRINCIPALS

from .keys import ALGORITHMS, Keys
from .settings import AuthSettings
from .telemetry import Metrics, log

LEEWAY_SEC = 30  # clocks differ
MAX_TOKEN_CHARS = 16_000
TYPES = {None, "jwt", "at+jwt", "application/at+jwt"}  # RFC 9068 2.1; others, as a logout token's, are not for this
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ufffd\ud800-\udfff]")


@dataclass(frozen=True)
class Caller:
    """Who asks. `subject` is None where nobody has to say who they are."""

    subject: str | None
    principals: tuple[str, ...]  # besides "*", which everyone has
    writes: bool

    @property
    def own(self) -> tuple[str, ...]:
        """Who may read what this caller puts, when the caller does not say."""
        return ("*",) if self.subject is None else (f"user:{self.subject}",)


def claimed(authorization: str) -> str | None:
    """The subject a token claims, not verified: good for sending the same caller to the same release, and for nothing else."""
    try:
        claims = json.loads(base64url_decode(authorization.split(".")[1]))
    except (ValueError, IndexError, RecursionError):
        return None
    return str(claims["sub"]) if isinstance(claims, dict) and "sub" in claims else None


class Refused(QuarryError):
    """401 or 403, with the challenge for WWW-Authenticate (RFC 6750 3)."""

    def __init__(self, code: ErrorCode, detail: str, challenge: str) -> None:
        super().__init__(code, detail)
        self.challenge = f'Bearer realm="quarry"{challenge}'


class _Unfit(Exception):
    """Why a token is refused: a word for the metrics, never the token's own."""


class Authenticator:
    """Tokens to callers."""

    def __init__(self, settings: AuthSettings, metrics: Metrics) -> None:
        """Raises KeysError when a file of keys cannot be used."""
        self._settings = settings
        self._metrics = metrics
        self.keys = Keys(settings.jwks) if settings.mode == "jwt" else None

    async def caller(self, authorization: list[str]) -> Caller:
        """The caller, by the request's Authorization headers.

        Raises:
            Refused: `unauthorised`, there is no token or it is not valid.
            QuarryError: `not_ready`, the keys were never had.
        """
        if self.keys is None:
            return Caller(None, (), self._settings.anonymous_writes)
        if not authorization:
            raise Refused(ErrorCode.UNAUTHORISED, "send a token: Authorization: Bearer ...", "")
        try:
            return self._caller(await self._claims(authorization, self.keys))
        except (_Unfit, jwt.PyJWTError) as error:
            reason = str(error) if isinstance(error, _Unfit) else type(error).__name__
            self._metrics.tokens_refused.labels(reason).inc()
            log.info("token refused", extra={"fields": {"quarry.reason": reason}})
            expired = isinstance(error, jwt.ExpiredSignatureError)  # said only of tokens that the issuer did sign
            detail = "the token has expired" if expired else "the token is not valid"
            raise Refused(ErrorCode.UNAUTHORISED, detail, ', error="invalid_token"') from None

    async def _claims(self, authorization: list[str], keys: Keys) -> dict[str, Any]:
        scheme, _, token = authorization[0].partition(" ")
        token = token.strip(" ")
        if len(authorization) > 1 or scheme.lower() != "bearer" or len(token) > MAX_TOKEN_CHARS or not _TOKEN.match(token):
            raise _Unfit("shape")
        header, _ = (_object(part) for part in token.split(".")[:2])
        kind, kid = header.get("typ"), header.get("kid")
        if "crit" in header or (kind.lower() if isinstance(kind, str) else kind) not in TYPES:
            raise _Unfit("header")
        key = await keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise _Unfit("key")
        options: Any = {"require": ["exp", "iss", "sub"], "verify_aud": False, "enforce_minimum_key_length": True}
        claims: dict[str, Any] = jwt.decode(token, key, ALGORITHMS, options, issuer=self._settings.issuer, leeway=LEEWAY_SEC)
        audience = claims.get("aud", claims.get("client_id"))
        if self._settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _Unfit("audience")
        if claims.get("token_use", "access") != "access":
            raise _Unfit("use")
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        groups = [group for name in self._settings.groups_claims for group in _names(claims.get(name, []))]
        principals = (f"user:{claims['sub']}", *(f"group:{group}" for group in groups))
        if not claims["sub"] or len(principals) > MAX_PRINCIPALS or any(len(p) > MAX_PRINCIPAL_CHARS or _UNSAFE.search(p) for p in principals):
            raise _Unfit("names")
        granted = {scope for name in ("scope", "scp") for entry in _names(claims.get(name, [])) for scope in entry.split()}
        return Caller(claims["sub"], tuple(dict.fromkeys(principals)), self._settings.write_scope in granted)

    def check_writes(self, caller: Caller) -> None:
        """Let through who may change documents.

        Raises:
            Refused: `forbidden`.
        """
        if caller.writes:
            return
        if caller.subject is None:
            raise Refused(ErrorCode.FORBIDDEN, "this gateway takes no changes from callers without a token, and knows no tokens", "")
        scope = self._settings.write_scope
        raise Refused(ErrorCode.FORBIDDEN, f"the token must have the scope {scope}", f', error="insufficient_scope", scope="{scope}"')


def _names(claim: Any) -> list[str]:
    """A claim's entries: a list of strings, or one string; an empty one is none."""
    entries = [claim][: len(claim)] if isinstance(claim, str) else claim
    if not isinstance(entries, list) or not all(isinstance(e, str) and e for e in entries):
        raise _Unfit("names")
    return entries


def _object(part: str) -> dict[str, Any]:
    """A token's header or payload; a name that comes twice is refused, since readers differ in which they believe."""
    try:
        found = json.loads(base64url_decode(part), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _Unfit("shape") from None
    if not isinstance(found, dict):
        raise _Unfit("shape")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Unfit("shape")
    return found


def _refuse(_: str) -> None:
    raise _Unfit("shape")
