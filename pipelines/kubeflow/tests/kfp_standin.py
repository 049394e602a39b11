"""A wire-level stand-in for the Kubeflow Pipelines server: no server can run here.

It speaks the REST paths of API v2beta1. Every body it takes, and every body it gives, must fit the models of
kfp_server_api, the client that the Kubeflow project generates from its own description: an unknown field is a 400.
It keeps pipelines, versions, experiments, runs and schedules in memory; a run ends when it is asked about twice.
"""

import json
import re
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml

PREFIX = "/apis/v2beta1"


class Refused(Exception):
    """An error reply."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def fits(body: Any, model: str) -> Any:
    """Check a JSON object against a model of kfp_server_api, nested ones too."""
    cls = getattr(kfp_server_api, model)
    wire = {cls.attribute_map[name]: kind for name, kind in cls.openapi_types.items()}
    for key, value in body.items():
        if key not in wire:
            raise Refused(400, f"{model} has no field {key}")
        kind = wire[key]
        item = re.fullmatch(r"list\[(\w+)\]", kind)
        if value is None:
            continue
        if item and hasattr(kfp_server_api, item[1]):
            for entry in value:
                fits(entry, item[1])
        elif hasattr(kfp_server_api, kind) and isinstance(value, dict) and hasattr(getattr(kfp_server_api, kind), "openapi_types"):
            fits(value, kind)
        elif kind == "str" and not isinstance(value, str | int):  # 64-bit numbers are strings in the description, either on the wire
            raise Refused(400, f"{model}.{key} must be a string")
    return body


class KfpStandIn:
    """The state, and what was asked."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.fail: dict[str, int] = {}  # path -> status
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.packages: dict[str, list[Any]] = {}  # version id -> documents of the YAML
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.end_state = "SUCCEEDED"
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> dict[str, Any]:
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "the token is not valid")
        if path in self.fail:
            raise Refused(self.fail[path], "told to fail")
        for verb, pattern, handler in ROUTES:
            match = re.fullmatch(PREFIX + pattern, path)
            if match and verb == method:
                return handler(self, match, query, body, headers)
        raise Refused(404, f"no such path: {method} {path}")

    def healthz(self, *_: Any) -> dict[str, Any]:
        return fits({"multi_user": False}, "V2beta1GetHealthzResponse")

    def list_experiments(self, _: Any, query: dict[str, str], *__: Any) -> dict[str, Any]:
        return fits({"experiments": named(self.experiments.values(), query)}, "V2beta1ListExperimentsResponse")

    def create_experiment(self, _: Any, __: Any, body: bytes, ___: Any) -> dict[str, Any]:
        return self._keep(self.experiments, "experiment_id", fits(json.loads(body), "V2beta1Experiment"))

    def list_pipelines(self, _: Any, query: dict[str, str], *__: Any) -> dict[str, Any]:
        return fits({"pipelines": named(self.pipelines.values(), query)}, "V2beta1ListPipelinesResponse")

    def upload(self, _: Any, query: dict[str, str], body: bytes, headers: Any) -> dict[str, Any]:
        if named(self.pipelines.values(), {"filter": json.dumps(equals(query["name"]))}):
            raise Refused(409, "a pipeline of this name exists")
        made = self._keep(self.pipelines, "pipeline_id", {"display_name": query["name"]})
        self._version(made["pipeline_id"], query["name"], body, headers)
        return fits(made, "V2beta1Pipeline")

    def upload_version(self, _: Any, query: dict[str, str], body: bytes, headers: Any) -> dict[str, Any]:
        return self._version(query["pipelineid"], query["name"], body, headers)

    def _version(self, pipeline: str, name: str, body: bytes, headers: Any) -> dict[str, Any]:
        if pipeline not in self.pipelines:
            raise Refused(404, "no such pipeline")
        if any(v["display_name"] == name for v in self.versions[pipeline]):
            raise Refused(409, "a version of this name exists")
        documents = list(yaml.load_all(uploaded(body, headers), yaml.CSafeLoader))
        if documents[0].get("schemaVersion") != "2.1.0":
            raise Refused(400, "not a pipeline of schema 2.1.0")
        made = {"pipeline_id": pipeline, "pipeline_version_id": uuid.uuid4().hex, "display_name": name}
        self.versions[pipeline].append(made)
        self.packages[made["pipeline_version_id"]] = documents
        return fits(made, "V2beta1PipelineVersion")

    def list_versions(self, match: Any, query: dict[str, str], *_: Any) -> dict[str, Any]:
        return fits({"pipeline_versions": named(self.versions[match[1]], query)}, "V2beta1ListPipelineVersionsResponse")

    def create_run(self, _: Any, __: Any, body: bytes, ___: Any) -> dict[str, Any]:
        run = fits(json.loads(body), "V2beta1Run")
        self._check_inputs(run)
        return self._keep(self.runs, "run_id", {**run, "state": "PENDING"})

    def list_runs(self, _: Any, query: dict[str, str], *__: Any) -> dict[str, Any]:
        """One a page, as the schedules are."""
        runs = [r for r in named(self.runs.values(), query) if r["experiment_id"] == query["experiment_id"]]
        at = int(query.get("page_token") or 0)
        more = {"next_page_token": str(at + 1)} if at + 1 < len(runs) else {}
        return fits({"runs": runs[at : at + 1], "total_size": len(runs), **more}, "V2beta1ListRunsResponse")

    def get_run(self, match: Any, *_: Any) -> dict[str, Any]:
        if match[1] not in self.runs:
            raise Refused(404, "no such run")
        run = self.runs[match[1]]
        run["state"] = "RUNNING" if run["state"] == "PENDING" else self.end_state
        return fits(run, "V2beta1Run")

    def create_recurring(self, _: Any, __: Any, body: bytes, ___: Any) -> dict[str, Any]:
        job = fits(json.loads(body), "V2beta1RecurringRun")
        self._check_inputs(job)
        if len(job["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refused(400, "cron needs six fields, seconds first")
        return self._keep(self.recurring, "recurring_run_id", {**job, "status": "ENABLED"})

    def list_recurring(self, _: Any, query: dict[str, str], *__: Any) -> dict[str, Any]:
        """One a page, so that who does not turn pages is found out."""
        jobs = list(self.recurring.values())
        at = int(query.get("page_token") or 0)
        more = {"next_page_token": str(at + 1)} if at + 1 < len(jobs) else {}
        return fits({"recurringRuns": jobs[at : at + 1], "total_size": len(jobs), **more}, "V2beta1ListRecurringRunsResponse")

    def delete_recurring(self, match: Any, *_: Any) -> dict[str, Any]:
        del self.recurring[match[1]]
        return {}

    def _check_inputs(self, made: dict[str, Any]) -> None:
        """As the real server: the version must exist, and every parameter be one of the pipeline's, of its type."""
        reference = made["pipeline_version_reference"]
        if reference["pipeline_version_id"] not in self.packages:
            raise Refused(404, "no such pipeline version")
        spec = self.packages[reference["pipeline_version_id"]][0]
        wanted = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = made.get("runtime_config", {}).get("parameters", {})
        kinds = {"STRING": str, "NUMBER_DOUBLE": (int, float), "NUMBER_INTEGER": int, "BOOLEAN": bool}
        for name, value in given.items():
            if name not in wanted or not isinstance(value, kinds[wanted[name]["parameterType"]]):
                raise Refused(400, f"{name} is not a parameter of this pipeline, or of another type")
        missing = {n for n, p in wanted.items() if not p.get("isOptional") and "defaultValue" not in p} - given.keys()
        if missing:
            raise Refused(400, f"parameters are missing: {sorted(missing)}")

    def _keep(self, where: dict[str, dict[str, Any]], key: str, made: dict[str, Any]) -> dict[str, Any]:
        made = {**made, key: uuid.uuid4().hex}
        where[made[key]] = made
        return made


ROUTES = [
    ("GET", "/healthz", KfpStandIn.healthz),
    ("GET", "/experiments", KfpStandIn.list_experiments),
    ("POST", "/experiments", KfpStandIn.create_experiment),
    ("GET", "/pipelines", KfpStandIn.list_pipelines),
    ("POST", "/pipelines/upload", KfpStandIn.upload),
    ("POST", "/pipelines/upload_version", KfpStandIn.upload_version),
    ("GET", r"/pipelines/([^/]+)/versions", KfpStandIn.list_versions),
    ("POST", "/runs", KfpStandIn.create_run),
    ("GET", "/runs", KfpStandIn.list_runs),
    ("GET", r"/runs/([^/:]+)", KfpStandIn.get_run),
    ("POST", "/recurringruns", KfpStandIn.create_recurring),
    ("GET", "/recurringruns", KfpStandIn.list_recurring),
    ("DELETE", r"/recurringruns/([^/:]+)", KfpStandIn.delete_recurring),
]


def equals(name: str) -> dict[str, Any]:
    """The filter `display_name == name`."""
    return {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}


def named(found: Any, query: dict[str, str]) -> list[dict[str, Any]]:
    """Those that the query's filter lets through."""
    wanted = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    names = [p.get("stringValue", p.get("string_value")) for p in wanted]
    return [f for f in found if all(f.get("display_name") == n for n in names)]


def uploaded(body: bytes, headers: Any) -> str:
    """The file of a multipart form."""
    message = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
    [part] = [p for p in message.walk() if p.get_filename()]
    return bytes(part.get_payload(decode=True)).decode()


@contextmanager
def serving(standin: KfpStandIn) -> Iterator[KfpStandIn]:
    """Serve it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            query = {k: v[0] for k, v in parse_qs(split.query).items()}
            try:
                status, reply = 200, standin.answer(self.command, split.path, query, body, self.headers)
            except Refused as error:
                status, reply = error.status, {"code": error.status, "message": str(error)}
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
