"""uvicorn that stops truthfully: what was accepted is answered, nothing else is taken."""

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import struct
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .settings import ServerSettings

FIRST_REQUEST_SEC = 1.0  # a connection taken just before the stop may still be sending its request
ACCEPT_SEC = 0.1  # for the connections that the kernel has taken and we have not; again while there are any
ACCEPT_TRIES = 50
SO_ATTACH_FILTER = 26  # Linux, socket(7)


def drop_new(listener: int) -> None:
    """Let the kernel answer no new connection on this file descriptor, by a packet filter that drops all (BPF: RET 0).

    Closing the port resets what waits in its queue. Behind the filter the queue can be emptied first; who was dropped
    tries again a second later, and is refused by the closed port.
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(listener)) as shared:  # not Linux: as before, without
        shared.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(code)))


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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Empty the ports' queues, close them, answer what is in flight."""
        for server in self.servers:
            for listener in server.sockets:
                drop_new(listener.fileno())
        await self._take_what_waits()
        await super().shutdown(sockets)

    async def _take_what_waits(self) -> None:
        """Until no connection waits at a port: uvloop takes one at each turn of its loop, and a busy loop turns a few times a second."""
        ports = [listener.fileno() for server in self.servers for listener in server.sockets]
        for _ in range(ACCEPT_TRIES):
            await asyncio.sleep(ACCEPT_SEC)
            if not select.select(ports, [], [], 0)[0]:
                return

    def _stop(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would raise them again at the end; a drained server exits 0
