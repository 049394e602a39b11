"""uvicorn that stops truthfully: what was accepted is answered, nothing else is taken."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import ServerSettings

FIRST_REQUEST_SEC = 1.0  # a connection taken just before the stop may still be sending its request


class DrainingProtocol(HttpToolsProtocol):
    """uvicorn closes a connection whose first request has not arrived yet; its caller could not tell whether it was worked on."""

    def shutdown(self) -> None:
        """Called once for each open connection when the server stops."""
        if self.cycle is None:
            asyncio.get_running_loop().call_later(FIRST_REQUEST_SEC, super().shutdown)
        else:
            super().shutdown()


class Server(uvicorn.Server):
    """Not ready at once, still serving for the lame-duck time, then draining. `state.stopping` tells the application."""

    def __init__(self, config: uvicorn.Config, settings: ServerSettings, state: Any) -> None:
        super().__init__(config)
        self._settings = settings
        self._state = state

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM or SIGINT."""
        again, self._state.stopping = self._state.stopping, True
        if again or not self._settings.lame_duck_sec:
            self._stop(sig, frame)
        else:
            asyncio.get_running_loop().call_later(self._settings.lame_duck_sec, self._stop, sig, frame)

    def _stop(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would raise them again at the end; a drained server exits 0
