"""A model service as a user class of the stock seldon-core Python wrapper, over the same core as our own server.

Imported only where seldon-core is installed (services/*/seldon). What the wrapper gets wrong is set right here: errors that
show exception text, 500 for unknown paths, readiness without a model, work accepted without limit. Run it with
GUNICORN_WORKERS=1 and GRPC_WORKERS=0, or load() runs once per process.
"""

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from concurrent.futures import CancelledError
from typing import Any

import flask
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quarry_contract.codec import loads
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import HEADER_DEADLINE_MS, HEADER_REQUEST_ID
from seldon_core.user_model import SeldonComponent
from werkzeug.exceptions import HTTPException

from .server import FORM, REQUEST_ID, Load, Model, form_field
from .settings import ServerSettings

log = logging.getLogger("quarry")
PREDICTIONS = ("/api/v1.0/predictions", "/api/v0.1/predictions", "/predict")
METADATA = ("/metadata", "/api/v1.0/metadata")
BOOT_ERROR = 3  # gunicorn's own: the master stops instead of starting the worker again


class SeldonModel(SeldonComponent):  # type: ignore[misc]
    """Base of a service's user class: give it the service's `load` and name."""

    def __init__(self, service: str, load: Load) -> None:
        super().__init__()
        self._settings = ServerSettings(service)
        self._load = load
        self._model: Model | None = None
        self._registry = CollectorRegistry()
        self._loop = asyncio.new_event_loop()
        self.model_error_handler = _blueprint(self)

    def load(self) -> None:
        """Called by the wrapper in the worker process; a failure of any kind ends it."""
        try:
            threading.Thread(target=self._loop.run_forever, daemon=True, name="asyncio").start()
            self._model = self._load(self._registry)
        except BaseException as error:  # the wrapper would swallow AttributeError and serve without a model
            print(json.dumps({"log.level": "critical", "message": f"the model was not loaded: {type(error).__name__}: {error}"}), file=sys.stderr, flush=True)
            os._exit(BOOT_ERROR)

    def predict_raw(self, message: dict[str, Any]) -> dict[str, Any]:
        """The whole Seldon message in and out."""
        try:
            if "jsonData" not in message:
                raise invalid('the body must be {"jsonData": {...}}')
            deadline = time.monotonic() + _remaining_sec(self._settings)
            work = asyncio.run_coroutine_threadsafe(self._ready().predict(message["jsonData"], deadline), self._loop)
            return {"jsonData": work.result(), "meta": {"requestPath": {self._settings.service: "quarry"}}}
        except QuarryError:
            raise
        except (Exception, CancelledError) as error:
            log.error("prediction failed: %s", type(error).__name__)
            raise QuarryError(ErrorCode.INTERNAL) from None

    def _ready(self) -> Model:
        if self._model is None:
            raise QuarryError(ErrorCode.NOT_READY, "the model is loading", retry_after_sec=1)
        return self._model

    def health_status(self) -> dict[str, str]:
        """For /health/status."""
        self._ready()
        return {"status": "ready"}

    def init_metadata(self) -> dict[str, Any]:
        """Asked by the wrapper once, before `load`; /metadata answers with `metadata` instead."""
        return {"name": self._settings.service, "platform": "onnxruntime"}

    def metadata(self) -> dict[str, Any]:
        """What is served, by name and digest. Raises QuarryError (`not_ready`) before it is loaded."""
        return self._ready().metadata()

    def metrics(self) -> list[dict[str, Any]]:
        """For the wrapper's own metrics port; ours are at /prometheus on the main one."""
        return [{"type": "COUNTER", "key": "quarry_predictions", "value": 1}]

    def exposition(self) -> bytes:
        """Prometheus text of the service's registry."""
        return generate_latest(self._registry)


def _remaining_sec(settings: ServerSettings) -> float:
    header = flask.request.headers.get(HEADER_DEADLINE_MS)
    if header is None:
        return settings.deadline_default_sec
    if not re.fullmatch(r"-?\d{1,9}", header):
        raise invalid(f"{HEADER_DEADLINE_MS} must be a whole number of milliseconds")
    if int(header) <= 0:
        raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
    return min(int(header) / 1000, settings.deadline_max_sec)


def _blueprint(model: SeldonModel) -> flask.Blueprint:
    """What the wrapper lets a model add to its Flask application: our error table, limits, request ids, metrics."""
    blueprint = flask.Blueprint("quarry", __name__)
    limit = model._settings.max_body_bytes

    @blueprint.before_app_request
    def check() -> None:
        if flask.request.path not in PREDICTIONS:
            return
        if flask.request.method != "POST":
            raise QuarryError(ErrorCode.METHOD_NOT_ALLOWED)
        if flask.request.mimetype not in ("application/json", FORM):
            raise QuarryError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        if (flask.request.content_length or 0) > limit:
            raise QuarryError(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")
        body = flask.request.get_data(cache=True, parse_form_data=False)
        message = loads(form_field(body) if flask.request.mimetype == FORM else body)
        if not isinstance(message, dict) or not message.keys() <= {"jsonData", "meta"} or "jsonData" not in message:
            raise invalid('the body must be {"jsonData": {...}}')

    blueprint.before_app_request(lambda: flask.jsonify(model.metadata()) if flask.request.path in METADATA and flask.request.method == "GET" else None)

    @blueprint.after_app_request
    def identify(response: flask.Response) -> flask.Response:
        response.headers[HEADER_REQUEST_ID] = _request_id()
        return response

    @blueprint.app_errorhandler(QuarryError)
    def quarry_error(error: QuarryError) -> flask.Response:
        return _problem(error)

    @blueprint.app_errorhandler(HTTPException)
    def http_error(error: HTTPException) -> flask.Response:
        codes = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED, 400: ErrorCode.INVALID_REQUEST}
        return _problem(QuarryError(codes.get(error.code or 500, ErrorCode.INTERNAL)))

    @blueprint.route("/prometheus")
    def prometheus() -> flask.Response:
        return flask.Response(model.exposition(), content_type=CONTENT_TYPE_LATEST)

    return blueprint


def _problem(error: QuarryError) -> flask.Response:
    body = json.dumps(error.to_problem(_request_id()))
    response = flask.Response(body, error.code.status, content_type="application/problem+json")
    if error.retry_after_sec is not None:
        response.headers["Retry-After"] = str(error.retry_after_sec)
    return response


def _request_id() -> str:
    if "request_id" not in flask.g:
        given = flask.request.headers.get(HEADER_REQUEST_ID, "")
        flask.g.request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
    return str(flask.g.request_id)
