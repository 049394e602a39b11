"""Everything the gateway can be told, read once from the environment."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

PREFIX = "QUARRY_GATEWAY_"


@dataclass(frozen=True)
class AuthSettings:
    """Who may ask. With `none` nobody says who they are, and only documents for everyone are found."""

    mode: Literal["none", "jwt"] = "none"
    jwks: str = ""  # the issuer's keys: a file, or an https address (http on loopback only)
    issuer: str = ""
    audience: str = ""
    groups_claims: tuple[str, ...] = ("groups", "cognito:groups")
    write_scope: str = "quarry:write"
    anonymous_writes: bool = False  # with `none`: whether anyone may change documents

    @classmethod
    def from_environment(cls) -> "AuthSettings":
        """Read the QUARRY_GATEWAY_ variables _AUTH, _JWKS, _ISSUER, _AUDIENCE, _GROUPS_CLAIMS, _WRITE_SCOPE, _ALLOW_ANONYMOUS_WRITES.

        Raises:
            SystemExit: a value is missing or not one of those possible.
        """
        mode = _choice("AUTH", "none", "jwt")
        jwks, issuer, audience = (os.environ.get(PREFIX + name, "") for name in ("JWKS", "ISSUER", "AUDIENCE"))
        if mode == "jwt" and not (jwks and issuer and audience):
            sys.exit(f"{PREFIX}AUTH=jwt needs {PREFIX}JWKS, {PREFIX}ISSUER and {PREFIX}AUDIENCE")
        if urlsplit(jwks).scheme == "http" and urlsplit(jwks).hostname not in ("127.0.0.1", "localhost", "::1"):
            sys.exit(f"{PREFIX}JWKS must be a file or an https address: keys that come by http can be exchanged on the way")
        groups = os.environ.get(f"{PREFIX}GROUPS_CLAIMS", ",".join(cls.groups_claims))
        scope = os.environ.get(f"{PREFIX}WRITE_SCOPE", cls.write_scope)
        if not scope.isascii() or not scope.isprintable() or set(scope) & set(' "\\') or not scope:
            sys.exit(f"{PREFIX}WRITE_SCOPE must be one OAuth scope: ASCII without spaces, quotes and backslashes")
        claims = tuple(name.strip() for name in groups.split(",") if name.strip())
        return cls("jwt" if mode == "jwt" else "none", jwks, issuer, audience, claims, scope, _choice("ALLOW_ANONYMOUS_WRITES", "false", "true") == "true")


@dataclass(frozen=True)
class Settings:
    """Units are in the names."""

    host: str = "127.0.0.1"
    port: int = 8080
    reader_url: str = "http://127.0.0.1:9001"
    retriever_url: str = "http://127.0.0.1:9002"
    release: Path = Path("release.json")
    routes: Path | None = None  # a routing table, watched; instead of the three above
    pipeline: Path = Path(__file__).parent / "pipelines" / "extractive.yaml"
    deadline_ms: int = 8_000
    deadline_max_ms: int = 25_000  # under API Gateway's 29 s
    max_body_bytes: int = 64_000
    lame_duck_sec: float = 0.0
    drain_timeout_sec: int = 30
    auth: AuthSettings = field(default_factory=AuthSettings)
    ingestion_url: str = ""  # where uploads go; none are taken without it
    max_upload_bytes: int = 200_000_000
    upload_deadline_ms: int = 300_000
    edge_keys: Path | None = None  # a file of keys, watched; only requests with one of them are answered

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the QUARRY_GATEWAY_ variables _HOST, _PORT, _READER_URL, _RETRIEVER_URL, _RELEASE, _ROUTES, _PIPELINE, _DEADLINE_MS,
        _DEADLINE_MAX_MS, _MAX_BODY_BYTES, _LAME_DUCK_SEC, _INGESTION_URL, _MAX_UPLOAD_BYTES, _UPLOAD_DEADLINE_MS, _EDGE_KEYS, and AuthSettings'.

        Raises:
            SystemExit: a value is out of range.
        """
        text = os.environ.get
        return cls(
            text(f"{PREFIX}HOST", cls.host),
            int(_number("PORT", cls.port, 1, 65_535)),
            text(f"{PREFIX}READER_URL", cls.reader_url).rstrip("/"),
            text(f"{PREFIX}RETRIEVER_URL", cls.retriever_url).rstrip("/"),
            Path(text(f"{PREFIX}RELEASE", str(cls.release))),
            Path(routes) if (routes := text(f"{PREFIX}ROUTES")) else None,
            Path(text(f"{PREFIX}PIPELINE", str(cls.pipeline))),
            int(_number("DEADLINE_MS", cls.deadline_ms, 1, 600_000)),
            int(_number("DEADLINE_MAX_MS", cls.deadline_max_ms, 1, 600_000)),
            int(_number("MAX_BODY_BYTES", cls.max_body_bytes, 1_000, 100_000_000)),
            _number("LAME_DUCK_SEC", cls.lame_duck_sec, 0, 300),
            auth=AuthSettings.from_environment(),
            ingestion_url=text(f"{PREFIX}INGESTION_URL", cls.ingestion_url).rstrip("/"),
            max_upload_bytes=int(_number("MAX_UPLOAD_BYTES", cls.max_upload_bytes, 1_000, 10_000_000_000)),
            upload_deadline_ms=int(_number("UPLOAD_DEADLINE_MS", cls.upload_deadline_ms, 1, 3_600_000)),
            edge_keys=Path(keys) if (keys := text(f"{PREFIX}EDGE_KEYS")) else None,
        )


def _choice(name: str, default: str, other: str) -> str:
    found = os.environ.get(PREFIX + name, default)
    if found not in (default, other):
        sys.exit(f"{PREFIX}{name} must be {default} or {other}")
    return found


def _number(name: str, default: float, low: float, high: float) -> float:
    text = os.environ.get(PREFIX + name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        sys.exit(f"{PREFIX}{name} must be a number from {low:g} to {high:g}")
    return value
