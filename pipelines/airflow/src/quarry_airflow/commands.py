"""Commands of other environments as subprocesses: their words into the task's log, their last line, a JSON report, back."""

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

log = logging.getLogger(__name__)
END_SEC = 30  # between SIGTERM and SIGKILL
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


class CommandError(Exception):
    """It failed; the message is the last thing it said. `code` is what it ended with, if it did."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


def run(command: Sequence[str], accept: Sequence[int] = (0,)) -> tuple[int, dict[str, Any]]:
    """Its exit code, one of `accept`, and the report. Words like NAME=value before it are its environment, as in a shell.

    When the task is stopped, so is the command, with all that it started.

    Raises:
        CommandError: it cannot be started, ends with another code, or its last line is no JSON object.
    """
    assigned = list(itertools.takewhile(_ASSIGNMENT.fullmatch, command))
    own = environment() | dict(word.split("=", 1) for word in assigned)
    command = command[len(assigned) :]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own, text=True, errors="replace", start_new_session=True)
    except OSError as error:
        raise CommandError(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        said, last = _read(process)
    except BaseException:
        _stop(process)
        raise
    if process.returncode not in accept:
        raise CommandError(said or f"{command[0]} ended with {process.returncode} and said nothing", process.returncode)
    try:
        return process.returncode, dict(json.loads(last))
    except (ValueError, TypeError) as error:
        raise CommandError(f"{command[0]} printed no report; its last line was {last[:200]!r}") from error


def environment() -> dict[str, str]:
    """Ours without Airflow's own variables: its database's password and keys are none of a command's business."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}


def _read(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """The last line of standard error, each of which is logged, and of standard output."""
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    logging_lines = threading.Thread(target=_log, args=(process.stderr, said))
    logging_lines.start()
    last = ""
    for line in process.stdout:
        last = line.strip() or last
    process.wait()
    logging_lines.join()
    return (said[-1] if said else ""), last


def _log(lines: IO[str], said: list[str]) -> None:
    for line in lines:
        if text := line.rstrip():
            log.info("%s", text)
            said[:] = [text]


def _stop(process: "subprocess.Popen[str]") -> None:
    """SIGTERM to its process group, and SIGKILL to what does not end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_SEC)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
