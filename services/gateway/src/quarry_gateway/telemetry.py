"""Metrics and logs. Never what was asked or answered."""

import json
import logging
import os
import sys
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

log = logging.getLogger("quarry")
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)


class Metrics:
    """One registry per application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("quarry_gateway_requests_total", "Requests by route and outcome", ["route", "code"], registry=self.registry)
        self.seconds = Histogram("quarry_gateway_request_seconds", "Time to answer", ["route"], buckets=BUCKETS, registry=self.registry)
        self.upstream = Histogram("quarry_gateway_upstream_seconds", "Time in a model service", ["upstream"], buckets=BUCKETS, registry=self.registry)
        self.abstained = Counter("quarry_abstained_total", "Questions not answered, by reason", ["reason"], registry=self.registry)
        self.degraded = Counter("quarry_degraded_total", "Replies with something missing", ["what"], registry=self.registry)
        self.mismatch = Counter("quarry_evidence_mismatch_total", "Answers stopped because their evidence did not hold", registry=self.registry)
        self.asked_again = Counter("quarry_asked_again_total", "Questions asked anew because a cited document changed meanwhile", registry=self.registry)
        self.tokens_refused = Counter("quarry_gateway_tokens_refused_total", "Tokens that were not valid, by reason", ["reason"], registry=self.registry)
        self.bypasses = Counter("quarry_gateway_bypasses_refused_total", "Requests that did not come by the edge", registry=self.registry)
        self.release = Gauge("quarry_gateway_release_info", "The releases that answer", ["release", "role"], registry=self.registry)
        self.answered = Counter("quarry_release_answers_total", "Questions by release and outcome", ["release", "code"], registry=self.registry)
        self.release_seconds = Histogram("quarry_release_answer_seconds", "Time to answer", ["release"], buckets=BUCKETS, registry=self.registry)
        self.release_abstained = Counter("quarry_release_abstained_total", "Questions a release did not answer", ["release"], registry=self.registry)
        self.mirrored = Counter("quarry_mirrored_total", "Questions put to the candidate too, by agreement", ["outcome"], registry=self.registry)
        self.mirror_seconds = Histogram("quarry_mirrored_seconds", "Time for mirrored questions", ["role"], buckets=BUCKETS, registry=self.registry)
        self.refused = Counter("quarry_gateway_routing_refused_total", "Routing tables, or releases in them, that were not followed", registry=self.registry)
        self.in_flight = Gauge("quarry_gateway_in_flight", "Requests being worked on", registry=self.registry)

    def hop(self, name: str, seconds: float) -> None:
        """Time spent in another service."""
        self.upstream.labels(name).observe(seconds)


class JsonFormatter(logging.Formatter):
    """One ECS-like JSON object a line. Exceptions are named by type and place: their text may quote what was asked."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        entry = {"@timestamp": stamp, "log.level": record.levelname.lower(), "message": record.getMessage(), "service.name": "gateway"}
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            entry["error.type"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                entry["error.at"] = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119
        return json.dumps(entry)


def configure_logging() -> None:
    """JSON lines on stdout, for this process."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("haystack").setLevel(logging.WARNING)  # its pipelines log their inputs
