"""An HTTP proxy before a real MLflow server, and real client processes behind it that can be killed at any of their requests."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path
from urllib.parse import urlsplit

from . import processes


class Proxy(ThreadingHTTPServer):
    """Counts the requests that write. `before` and `after` are called with a request's number and path; when down, it hangs up."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(server).netloc
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self) -> None:
        self.writes: list[str] = []
        self.down = False
        self.before: Callable[[int, str], None] = lambda number, path: None
        self.after: Callable[[int, str], None] = lambda number, path: None


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number = 0
        if self.command != "GET" and not self.path.endswith("search"):
            proxy.writes.append(self.path)
            number = len(proxy.writes)
            proxy.before(number, self.path)
        if proxy.down:
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(proxy.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if number:
            proxy.after(number, self.path)
        with contextlib.suppress(OSError):  # the client may be dead by now
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    made = Proxy(server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


def start(uri: str, log: Path, *arguments: str) -> BaseProcess:
    """`python -m quarry_training.register ARGUMENTS` in a process of its own, its words in `log`."""
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}
    return processes.start("register", arguments, log, environment)
