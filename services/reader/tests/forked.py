"""The reader as processes of its own, forked from one that has imported it: the imports take longer than what the tests ask of it."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["quarry_runtime.server", "quarry_reader.core"])


def forked(module: str, environment: Mapping[str, str], output: Path) -> BaseProcess:
    """`python -m module`, but for the imports; ends with the tests at the latest."""
    process = FORKS.Process(target=run, args=(module, dict(environment), output), daemon=True)
    process.start()
    return process


def run(module: str, environment: dict[str, str], output: Path) -> None:
    """In the new process."""
    with output.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
