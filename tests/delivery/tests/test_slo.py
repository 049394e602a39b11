"""A canary is watched through a real Prometheus that scrapes an exporter with the gateway's own metrics: what each verdict needs."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import free_port
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from quarry_delivery.workflows import CLONE

from .conftest import SCRIPTS, needs_environments

SLO = SCRIPTS / "slo.py"
METRICS = ("quarry_release_answers_total", "quarry_release_answer_seconds", "quarry_release_abstained_total")
TICK_SEC = 0.05
# release -> what each tick adds: (code, seconds) of its questions, and how many of them it abstains on
TICKS: dict[str, tuple[list[tuple[str, float]], int]] = {
    "live": ([("ok", 0.2)] * 20, 4),
    "well": ([("ok", 0.2)] * 20, 5),
    "callers": ([("ok", 0.2)] * 10 + [("invalid_request", 0.01)] * 6 + [("forbidden", 0.01)] * 4, 2),
    "failing": ([("ok", 0.2)] * 9 + [("upstream_failed", 0.2)], 2),
    "full": ([("ok", 0.2)] * 9 + [("overloaded", 0.01)], 2),
    "slow": ([("ok", 0.2)] * 16 + [("ok", 6.0)] * 4, 4),
    "mute": ([("ok", 0.2)] * 20, 12),
    "silent": ([], 0),
}
WANTED = {  # release -> exit code, verdict, objectives
    "well": (0, "kept", []),
    "callers": (0, "kept", []),
    "failing": (1, "missed", ["error_rate"]),
    "full": (1, "missed", ["error_rate"]),
    "slow": (1, "missed", ["p95_sec"]),
    "mute": (1, "missed", ["abstained"]),
    "silent": (2, "too few questions", []),
}


def count(registry: CollectorRegistry, over: threading.Event) -> None:
    """Questions that come and are answered, until it is over."""
    answers = Counter("quarry_release_answers", "a", ["release", "code"], registry=registry)
    seconds = Histogram("quarry_release_answer_seconds", "a", ["release"], buckets=(0.1, 0.5, 1, 5, 10), registry=registry)
    abstained = Counter("quarry_release_abstained", "a", ["release"], registry=registry)
    while not over.wait(TICK_SEC):
        for release, (questions, silent) in TICKS.items():
            for code, took in questions:
                answers.labels(release, code).inc()
                seconds.labels(release).observe(took)
            abstained.labels(release).inc(silent)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it has scraped for as long as the window is."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: install the Debian package prometheus")
    folder, registry, over = tmp_path_factory.mktemp("prometheus"), CollectorRegistry(), threading.Event()
    server, serving = start_http_server(0, "127.0.0.1", registry)
    target = f"127.0.0.1:{server.server_port}"
    job = {"job_name": "gateway", "scrape_interval": "250ms", "scrape_timeout": "250ms", "static_configs": [{"targets": [target]}]}
    (folder / "p.yml").write_text(json.dumps({"scrape_configs": [job]}))
    port = free_port()
    counting = threading.Thread(target=count, args=(registry, over))
    counting.start()
    command = ["prometheus", f"--config.file={folder}/p.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait(f"http://127.0.0.1:{port}", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            over.set()
    counting.join()
    server.shutdown()
    serving.join()
    server.server_close()


def wait(address: str, log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/api/v1/query?query=count_over_time(quarry_release_abstained_total{{release=%22live%22}}[1m])") as reply:
                found = json.load(reply)["data"]["result"]
            if found and float(found[0]["value"][1]) >= 8:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def watch(address: str, release: str, *more: str) -> tuple[int, dict[str, Any], str]:
    options = ["--minutes", "0.025", "--every", "0.4", "--window", "3s", "--least-questions", "10", *more]
    command = [sys.executable, str(SLO), "--prometheus", address, "--release", release, "--live", "live", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_each_release_gets_its_verdict(prometheus: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(WANTED, pool.map(lambda release: watch(prometheus, release), WANTED), strict=True))
    assert {release: (code, report["verdict"], report["objective"]) for release, (code, report, _) in found.items()} == WANTED
    assert found["failing"][1]["canary"]["error_rate"] == pytest.approx(0.1, abs=0.02)
    assert found["mute"][1]["canary"]["abstained"] == pytest.approx(0.6, abs=0.05)
    assert found["silent"][1]["canary"]["error_rate"] is None
    assert len(found["failing"][2].splitlines()) == 3, "broken off at the third look in a row"


def test_limits_are_those_of_the_command_line(prometheus: str) -> None:
    limits = [("failing", "--error-rate", "0.2"), ("well", "--p95-sec", "0.05"), ("well", "--least-questions", "1000000")]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda limit: watch(prometheus, *limit), limits))
    assert [(code, report["objective"]) for code, report, _ in found] == [(0, []), (1, ["p95_sec"]), (2, [])]


def test_a_prometheus_that_is_not_there_is_no_reason_to_promote() -> None:
    code, report, _ = watch(f"http://127.0.0.1:{free_port()}", "well")
    assert code == 2
    assert "does not answer" in report["verdict"]


def test_the_metrics_are_the_gateways_own() -> None:
    needs_environments("services/gateway")
    shown = "from prometheus_client import generate_latest; from quarry_gateway.telemetry import Metrics; print(generate_latest(Metrics().registry).decode())"
    told = subprocess.run([str(CLONE / "services/gateway/.venv/bin/python"), "-c", shown], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^# TYPE {name} ", told, re.MULTILINE) for name in METRICS)
    assert {"quarry_release_answers_total", *re.findall(r"quarry_release_\w+?(?=_bucket|\{)", SLO.read_text())} == set(METRICS)


def test_what_callers_do_wrong_is_what_the_error_table_says() -> None:
    table = (CLONE / "docs/errors.md").read_text()
    codes = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE)}
    ours = {code for code, status in codes.items() if (status < 500 and code != "overloaded") or code == "not_implemented"}
    [told] = re.findall(r'^CALLERS = "([\w|]+)"', SLO.read_text(), re.MULTILINE)
    assert set(told.split("|")) == ours | {"ok", "cancelled"}
