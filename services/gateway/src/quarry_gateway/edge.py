"""Only by the edge: requests that API Gateway did not pass on are refused, whoever sends them from inside the network (docs/adr/0008)."""

import hmac
from pathlib import Path

from fastapi import Request
from quarry_contract.errors import ErrorCode, QuarryError
from starlette.types import ASGIApp, Receive, Scope, Send

from .routes import problem
from .telemetry import Metrics, log

HEADER_EDGE = "X-Quarry-Edge"
OPEN = frozenset({"/healthz", "/readyz", "/metrics"})  # what probes and Prometheus ask from inside
MIN_KEY_CHARS = 32


class EdgeError(Exception):
    """The file of edge keys cannot be used; the message says why."""


class EdgeKeys:
    """The keys of a file, one a line; several are valid at once, so that each can be changed while another is sent."""

    def __init__(self, path: Path) -> None:
        """Raises EdgeError when the file cannot be used."""
        self._path = path
        self._stamp = _stamp(path)
        self._keys = _read(path)

    def know(self, key: str) -> bool:
        """Whether the key is one of them; how long that takes tells nothing of them."""
        self._follow()
        given = key.encode()
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        return True in matches

    def _follow(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._keys = _read(self._path)
        except EdgeError as error:
            log.error("edge keys not followed", extra={"fields": {"quarry.reason": str(error)}})


class EdgeOnly:
    """ASGI: 401 for what does not bring a key of the edge, before anything of it is read."""

    def __init__(self, app: ASGIApp, keys: EdgeKeys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        keys = request.headers.getlist(HEADER_EDGE)
        if len(keys) == 1 and self._keys.know(keys[0]):
            await self._app(scope, receive, send)
            return
        self._metrics.bypasses.inc()
        await problem(request, QuarryError(ErrorCode.UNAUTHORISED, "ask by the public address: this one answers the edge alone"))(scope, receive, send)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when the file does; Kubernetes exchanges a mounted secret by a link, so also when its target does."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino


def _read(path: Path) -> list[bytes]:
    try:
        keys = [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise EdgeError(f"the file of edge keys cannot be read: {type(error).__name__}") from None
    if not keys or any(len(key) < MIN_KEY_CHARS for key in keys):
        raise EdgeError(f"the file of edge keys must hold one key a line, each of at least {MIN_KEY_CHARS} characters")
    return [key.encode() for key in keys]
