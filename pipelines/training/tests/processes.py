"""The project's commands in processes of their own, to be killed: forked from one that has imported them, and nothing else.

So no start takes the seconds of importing torch. That one has no state of the tests; its children are killed like any process.
"""

import gc
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

IMPORTED = ["fit", "fit_generator", "fit_retriever", "register"]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([f"quarry_training.{name}" for name in IMPORTED] + ["peft"])


def start(module: str, arguments: Sequence[object], log: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """`python -m quarry_training.MODULE ARGUMENTS` on one thread; what it says is in `log`, what it prints beside it in `log`.out."""
    process = PROCESSES.Process(target=_run, args=(module, [str(x) for x in arguments], log, dict(environment or {})))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Its exit code, once it has ended."""
    process.join(900)
    assert process.exitcode is not None
    return process.exitcode


def kill_once_there(process: BaseProcess, file: Path) -> None:
    """kill -9 as soon as it has written `file`."""
    while not file.exists():
        assert process.is_alive(), "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.kill()
    process.join()


def printed(log: Path) -> str:
    return log.with_name(f"{log.name}.out").read_text()


def _run(module: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """Flushed by multiprocessing at the end."""
    gc.freeze()  # what was imported is no garbage, and to look through it copies its pages
    os.environ |= environment
    torch.set_num_threads(1)
    sys.argv = [module, *arguments]
    sys.stderr = log.open("w")
    sys.stdout = log.with_name(f"{log.name}.out").open("w")
    sys.modules.pop(f"quarry_training.{module}")  # as under `python -m`, where it is __main__ alone
    runpy.run_module(f"quarry_training.{module}", run_name="__main__", alter_sys=True)
