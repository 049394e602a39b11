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


EXTENSION = "x-amazon-apigateway-"
OWN = {  # type of gateway response -> status and message, unless the API defines its own; the first cannot be defined
    "REQUEST_TOO_LARGE": (413, "Request Too Long"),
    "MISSING_AUTHENTICATION_TOKEN": (403, "Missing Authentication Token"),
    "BAD_REQUEST_PARAMETERS": (400, "Bad Request"),
    "INTEGRATION_FAILURE": (504, "Network error communicating with endpoint"),
    "INTEGRATION_TIMEOUT": (504, "Endpoint request timed out"),
}


@dataclass
class ApiGateway:
    """One deployed stage of the API that an OpenAPI body defines, with Amazon's extensions or without."""

    integration: str
    definition: dict[str, Any]
    stage: str = "production"
    variables: dict[str, str] = field(default_factory=lambda: {"edge_key": "e" * 32})
    timeout_sec: float = 29.0
    url: str = ""
    came: list[web.Request] = field(default_factory=list)
    session: aiohttp.ClientSession | None = None

    @property
    def resources(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(method, path) -> what is told of it."""
        return {(method.upper(), path.replace("+}", "}")): told for path, methods in self.definition["paths"].items() for method, told in methods.items()}

    @property
    def binary(self) -> list[str]:
        """Media types that are passed on as they are."""
        return list(self.definition.get(f"{EXTENSION}binary-media-types", ["application/octet-stream"]))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One request of a client."""
        self.came.append(request)
        stage, _, path = request.rel_url.raw_path.removeprefix("/").partition("/")
        found = [told for (method, resource), told in self.resources.items() if method == request.method and self.matches(resource, f"/{path}")]
        if stage != self.stage or not found:
            return self.own("MISSING_AUTHENTICATION_TOKEN")
        if set(request.rel_url.raw_query_string) & set("|{}"):
            return self.own("BAD_REQUEST_PARAMETERS")
        body = await request.read()
        if len(body) > LIMIT:
            return self.own("REQUEST_TOO_LARGE")
        try:
            return await asyncio.wait_for(self.ask(request, path, self.converted(request, body), self.added(found[-1])), self.timeout_sec)
        except TimeoutError:
            return self.own("INTEGRATION_TIMEOUT")
        except aiohttp.ClientError:
            return self.own("INTEGRATION_FAILURE")

    def added(self, told: dict[str, Any]) -> dict[str, str]:
        """Headers that the integration asks for, of the stage's variables."""
        wanted = told.get(f"{EXTENSION}integration", {}).get("requestParameters", {})
        named = {name.removeprefix("integration.request.header."): value for name, value in wanted.items() if ".header." in name}
        return {name: self.variables[value.removeprefix("stageVariables.")] for name, value in named.items() if value.startswith("stageVariables.")}

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

    async def ask(self, request: web.Request, path: str, body: bytes, added: dict[str, str]) -> web.Response:
        """The integration's reply as the client sees it."""
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in DROPPED)
        if headers.get("Authorization", "").startswith("AWS4-"):
            del headers["Authorization"]
        forwarded = [value for value in (request.headers.get("X-Forwarded-For"), str(request.remote)) if value]
        headers.update({"X-Forwarded-For": ", ".join(forwarded), "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"})
        headers.update({"X-Amzn-Trace-Id": f"Root=1-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:24]}", "x-amzn-apigateway-api-id": "a1b2c3d4e5"})
        headers.update(added)
        query = urlencode(parse_qsl(request.rel_url.raw_query_string.replace(";", "&"), keep_blank_values=True))
        address = URL(f"{self.integration}/{quote(unquote(path), safe='/')}" + (f"?{query}" if query else ""), encoded=True)
        assert self.session is not None
        async with self.session.request(request.method, address, headers=headers, data=io.BytesIO(body) if body else None, allow_redirects=False) as reply:
            content = await reply.read()
            if len(content) > LIMIT:
                return self.own("INTEGRATION_FAILURE")
            return web.Response(body=content, status=reply.status, headers=self.back(reply.headers))

    def back(self, headers: Any) -> "CIMultiDict[str]":
        """A reply's headers."""
        kept = [(name, value) for name, value in headers.items() if name.lower() not in DROPPED_BACK]
        found = CIMultiDict((f"x-amzn-Remapped-{name}" if name.lower() in REMAPPED_BACK else name, value) for name, value in kept)
        found.setdefault("Content-Type", "application/json")
        return CIMultiDict([*found.items(), ("x-amzn-RequestId", str(uuid.uuid4())), ("x-amz-apigw-id", uuid.uuid4().hex[:15])])

    def own(self, kind: str) -> web.Response:
        """A reply that is not the integration's."""
        status, message = OWN[kind]
        identity = str(uuid.uuid4())
        defined = self.definition.get(f"{EXTENSION}gateway-responses", {}).get(kind) if kind != "REQUEST_TOO_LARGE" else None
        if defined is None:
            return web.json_response({"message": message}, status=status, headers={"x-amzn-RequestId": identity})
        text = defined["responseTemplates"]["application/json"].replace("$context.requestId", identity)
        given = {name.removeprefix("gatewayresponse.header."): value for name, value in defined["responseParameters"].items()}
        headers = {name: identity if value == "context.requestId" else value.strip("'") for name, value in given.items()}
        return web.Response(text=text, status=defined["statusCode"], headers={**headers, "x-amzn-RequestId": identity})


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
