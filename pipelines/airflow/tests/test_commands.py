"""Commands as subprocesses: what comes back, what is kept from them, and that they end with their task."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quarry_airflow.commands import CommandError, run

STOPPED = """import sys
from quarry_airflow.commands import run
def stop(*_): raise SystemExit("stopped")
import signal
signal.signal(signal.SIGTERM, stop)
run(["sh", "-c", "sleep 600 & echo $! > " + sys.argv[1] + ".part; mv " + sys.argv[1] + ".part " + sys.argv[1] + "; wait"])"""


def shell(script: str, **more: tuple[int, ...]) -> tuple[int, dict[str, object]]:
    return run(["sh", "-c", script], **more)


def test_the_last_line_is_the_report_and_the_last_word_the_error() -> None:
    assert shell("""echo progress; echo '{"a": 1}'; exit 1""", accept=(0, 1)) == (1, {"a": 1})
    with pytest.raises(CommandError, match=r"^not ingested: no such bucket$") as failed:
        shell("echo warning >&2; echo 'not ingested: no such bucket' >&2; exit 2")
    assert failed.value.code == 2
    for script in ("echo no report", "echo '[1]'", "true"):
        with pytest.raises(CommandError, match="printed no report"):
            shell(script)
    with pytest.raises(CommandError, match="nowhere/python cannot be started: No such file"):
        run(["nowhere/python"])


def test_a_command_does_not_see_airflows_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:secret@db/airflow")
    monkeypatch.setenv("QUARRY_HOME", "/home")
    code, report = shell("""echo "{\\"conn\\": \\"$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN\\", \\"home\\": \\"$QUARRY_HOME\\"}" """)
    assert (code, report) == (0, {"conn": "", "home": "/home"})
    both = """echo "{\\"home\\": \\"$QUARRY_HOME\\", \\"a\\": \\"$A\\"}" """
    assert run(["QUARRY_HOME=/other", "A=b=c", "sh", "-c", both])[1] == {"home": "/other", "a": "b=c"}


def test_a_stopped_task_stops_its_command_and_what_that_started(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPED, tmp_path / "pid"])
    while not (tmp_path / "pid").exists():
        time.sleep(0.01)
    started = int((tmp_path / "pid").read_text())
    os.kill(started, 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert not Path(f"/proc/{started}").exists() or "Z" in Path(f"/proc/{started}/stat").read_text().split()[2]
