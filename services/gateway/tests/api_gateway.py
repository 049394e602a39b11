"""A stand-in of Amazon API Gateway in front of ours: a REST API with a private HTTP proxy integration, as a real HTTP server.

After Amazon's own documents: "Amazon API Gateway important notes" (the table of headers dropped, passed and remapped, of its column
`http_proxy`; how paths and queries are encoded), "API Gateway quotas" (10 MB a payload, 29 s an integration), "Gateway response
types" (its own bodies) and "Binary media types for REST APIs". What it does not know, such as usage plans and WAF, needs an account.
"""

import asyncio
import io
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

LIMIT = 10 * 1024 * 1024  # bytes of a request or a reply
DROPPED = {  # on the way to the integration; Content-Length is made anew
    *("connection", "content-encoding", "content-length", "content-md5", "expect", "host", "max-forwards", "proxy-authenticate"),
    *("server", "te", "trailer", "transfer-encoding", "upgrade", "via", "www-authenticate"),
}
DROPPED_BACK = {"content-length", "expect", "host", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade", "via"}
REMAPPED_BACK = {"authorization", "connection", "content-md5", "date", "max-forwards", "server", "user-agent", "www-authenticate"}


@dataclass
class ApiGateway:
    """One deployed stage. `resources` holds (method, path) as the API's OpenAPI body lists them."""

    integration: str
    resources: set[tuple[str, str]]
    stage: str = "production"
    binary: tuple[str, ...] = ("application/octet-stream",)
    timeout_sec: float = 29.0
    url: str = ""
    came: list[web.Request] = field(default_factory=list)
    session: aiohttp.ClientSession | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One request of a client."""
        self.came.append(request)
        stage, _, path = request.rel_url.raw_path.removeprefix("/").partition("/")
        if stage != self.stage or not any(method == request.method and self.matches(resource, f"/{path}") for method, resource in self.resources):
            return self.own(403, "Missing Authentication Token")
        if set(request.rel_url.raw_query_string) & set("|{}"):
            return self.own(400, "Bad Request")
        body = await request.read()
        if len(body) > LIMIT:
            return self.own(413, "Request Too Long")
        try:
            return await asyncio.wait_for(self.ask(request, path, self.converted(request, body)), self.timeout_sec)
        except TimeoutError:
            return self.own(504, "Endpoint request timed out")
        except aiohttp.ClientError:
            return self.own(502, "Internal server error")

    @staticmethod
    def matches(resource: str, path: str) -> bool:
        """`{name}` is one segment; our `document_id` is greedy (`{document_id+}`)."""
        head, variable, _ = resource.partition("{")
        if not variable:
            return path == resource
        rest = path.removeprefix(head)
        return path.startswith(head) and bool(rest) and ("document_id" in resource or "/" not in rest)

    def converted(self, request: web.Request, body: bytes) -> bytes:
        """What is not listed as binary is text, and text is UTF-8."""
        return body if request.content_type in self.binary else body.decode(errors="replace").encode()

    async def ask(self, request: web.Request, path: str, body: bytes) -> web.Response:
        """The integration's reply as the client sees it."""
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in DROPPED)
        if headers.get("Authorization", "").startswith("AWS4-"):
            del headers["Authorization"]
        forwarded = [value for value in (request.headers.get("X-Forwarded-For"), str(request.remote)) if value]
        headers.update({"X-Forwarded-For": ", ".join(forwarded), "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"})
        headers.update({"X-Amzn-Trace-Id": f"Root=1-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:24]}", "x-amzn-apigateway-api-id": "a1b2c3d4e5"})
        query = urlencode(parse_qsl(request.rel_url.raw_query_string.replace(";", "&"), keep_blank_values=True))
        address = URL(f"{self.integration}/{quote(unquote(path), safe='/')}" + (f"?{query}" if query else ""), encoded=True)
        assert self.session is not None
        async with self.session.request(request.method, address, headers=headers, data=io.BytesIO(body) if body else None, allow_redirects=False) as reply:
            content = await reply.read()
            if len(content) > LIMIT:
                return self.own(502, "Internal server error")
            return web.Response(body=content, status=reply.status, headers=self.back(reply.headers))

    def back(self, headers: Any) -> "CIMultiDict[str]":
        """A reply's headers."""
        kept = [(name, value) for name, value in headers.items() if name.lower() not in DROPPED_BACK]
        found = CIMultiDict((f"x-amzn-Remapped-{name}" if name.lower() in REMAPPED_BACK else name, value) for name, value in kept)
        found.setdefault("Content-Type", "application/json")
        return CIMultiDict([*found.items(), ("x-amzn-RequestId", str(uuid.uuid4())), ("x-amz-apigw-id", uuid.uuid4().hex[:15])])

    def own(self, status: int, message: str) -> web.Response:
        """A reply that is not the integration's."""
        return web.json_response({"message": message}, status=status, headers={"x-amzn-RequestId": str(uuid.uuid4())})


@asynccontextmanager
async def fronting(edge: ApiGateway) -> AsyncIterator[ApiGateway]:
    """Served on loopback."""
    app = web.Application(client_max_size=2 * LIMIT)
    app.router.add_route("*", "/{path:.*}", edge.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    edge.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"], auto_decompress=False) as edge.session:
        yield edge
    await runner.cleanup()
