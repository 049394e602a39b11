"""Commands of the retriever as processes of their own, forked from one that has imported it: the imports take longer than what the tests ask of them."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["quarry_runtime.server", "quarry_retriever.core"])


def forked(module: str, *arguments: str, folder: Path, **environment: str) -> BaseProcess:
    """`python -m module`, but for the imports; prints into `out` and `err` of the folder; ends with the tests at the latest."""
    process = FORKS.Process(target=run, args=(module, arguments, {**os.environ, **environment}, folder), daemon=True)
    process.start()
    return process


def run(module: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> None:
    """In the new process."""
    for descriptor, name in ((1, "out"), (2, "err")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
