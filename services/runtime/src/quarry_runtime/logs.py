"""Logs: ECS-like JSON lines on standard output, never what was asked."""

import json
import logging
import os
import sys
import time


class JsonFormatter(logging.Formatter):
    """One ECS-like JSON object a line. Messages of exceptions are left out: they may quote what was asked."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        entry = {"@timestamp": stamp, "log.level": record.levelname.lower(), "message": record.getMessage(), "service.name": self._service}
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            entry["error.type"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                entry["error.at"] = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119
        return json.dumps(entry)


def configure_logging(service: str) -> None:
    """JSON lines on stdout, for this process."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
