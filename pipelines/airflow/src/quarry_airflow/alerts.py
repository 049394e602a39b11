"""A run that is late is told to Prometheus's Alertmanager (API v2), which knows whom to wake.

Airflow calls it when the deadline has passed and the run has not succeeded: it may still be at work, or have failed (apache/airflow#60927).
"""

import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
TIMEOUT_SEC = 10


def late(context: Mapping[str, Any]) -> None:
    """`context` holds the DAG run and its deadline. Without QUARRY_AIRFLOW_ALERTMANAGER it stays with a line in the log.

    Raises:
        OSError: Alertmanager does not take it.
    """
    run = context["dag_run"]
    about = f"{run['dag_id']}, run {run['dag_run_id']}, has not succeeded by {context['deadline']['deadline_time']}"
    log.error("late: %s", about)
    address = os.environ.get("QUARRY_AIRFLOW_ALERTMANAGER", "")
    if not address:
        return
    labels = {"alertname": "QuarryIngestLate", "severity": "warning", "dag_id": run["dag_id"], "run_id": run["dag_run_id"]}
    body = json.dumps([{"labels": labels, "annotations": {"summary": about}}]).encode()
    request = urllib.request.Request(f"{address.rstrip('/')}/api/v2/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=TIMEOUT_SEC).close()
