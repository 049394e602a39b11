"""A stand-in for the data plane of one Pinecone serverless index, over HTTP: not Pinecone, and no proof of how Pinecone behaves.

It follows the published REST schema of API version 2026-07 (docs.pinecone.io/reference/api, the one that the Python SDK 10.2
speaks; bodies as that SDK sends them) and the published limits (docs.pinecone.io/reference/api/database-limits). Writes get
log sequence numbers per namespace and show later (docs.pinecone.io/guides/index-data/check-data-freshness): `fetch` and `list` see
a write half way to when queries do. What it does on demand is set by POST /standin (see Settings); GET /standin tells what came in.

    python pinecone_standin.py --dimension 16 [--metric dotproduct] [--port 0]      prints its address when it is ready
"""

import argparse
import json
import re
import time
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from pinecone_filters import Body, Refused
from pinecone_model import Index, Settings

API_VERSION = "2026-07"
API_KEY = "standin-key"
MAX_URL = 16_384  # characters; not published, what common servers take


class Handler(BaseHTTPRequestHandler):
    """HTTP around the index."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the headers' acknowledgement
    index: Index

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        if parts.path == "/standin":
            return self.send(200, self.control(raw), {})
        fault = self.fault(parts.path)
        if fault.get("status") in (0, 2):
            time.sleep(fault.get("seconds", 0))
            self.close_connection = True
            return None
        status, body, headers = self.answered(parts.path, parse_qs(parts.query), raw, fault)
        with self.index.lock:
            self.index.requests.append({"path": parts.path, "status": status, "bytes": len(raw), "at": time.monotonic(), "fault": fault.get("status")})
        if fault.get("status") == 1:
            self.close_connection = True
            return None
        return self.send(status, body, headers)

    do_POST = do_DELETE = do_GET

    def answered(self, path: str, query: dict[str, list[str]], raw: bytes, fault: Body) -> tuple[int, Body, dict[str, str]]:
        try:
            if self.headers.get("api-key") != API_KEY:
                raise Refused(401, "Invalid API Key")
            if self.headers.get("x-pinecone-api-version") != API_VERSION:
                raise Refused(400, f"this stand-in speaks API version {API_VERSION} only")
            if len(self.path) > MAX_URL:
                raise Refused(414, "URI Too Long")
            if fault.get("status", 0) >= 400:
                headers = {"retry-after": str(fault["retry_after"])} if "retry_after" in fault else {}
                raise Refused(fault["status"], "as was asked for", **headers)
            with self.index.lock:
                body, headers = self.index.answer(self.command, path, query, raw)
                return 200, body, headers if self.index.settings.lsn_headers else {}
        except Refused as refused:
            return refused.status, {"code": 3, "message": str(refused), "details": []}, refused.headers

    def fault(self, path: str) -> Body:
        with self.index.lock:
            for fault in self.index.settings.faults:
                if fault["times"] > 0 and re.match(fault["path"], path):
                    fault["times"] -= 1
                    return dict(fault)
        return {}

    def control(self, raw: bytes) -> Body:
        with self.index.lock:
            if self.command == "DELETE":
                self.index.reset()
            for name, value in json.loads(raw or b"{}").items():
                if name not in {f.name for f in fields(Settings)}:
                    return {"error": f"no setting {name}"}
                setattr(self.index.settings, name, value)
            return {"requests": self.index.requests, "left": sum(f["times"] for f in self.index.settings.faults)}

    def send(self, status: int, body: Body, headers: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A stand-in for a Pinecone index")
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--metric", choices=["cosine", "dotproduct"], default="dotproduct")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    Handler.index = Index(options.dimension, options.metric)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
