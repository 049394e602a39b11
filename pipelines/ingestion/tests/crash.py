"""A step run in a forked child that is killed by SIGKILL at a random call into SQLite or the file system, or whose disk is full."""

import gc
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

FILE_CALLS = {"replace", "rename", "unlink", "fsync", "link", "rmdir", "mkdir", "write"}
KILLED, DONE, REFUSED = "killed", "done", "refused"


def in_child(step: Callable[[], object], prepare: Callable[[], None] = lambda: None) -> str:
    """Whether the step was killed, done, or ended with an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        gc.freeze()  # as an extraction's child does
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            prepare()
            step()
            status = 0
        finally:
            sys.setprofile(None)
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return KILLED
    return DONE if os.WEXITSTATUS(status) == 0 else REFUSED


def kill_at(call: int) -> Callable[[], None]:
    """Before the n-th call (from 1) into SQLite or the file system."""

    def prepare() -> None:
        left = call

        def watch(frame: FrameType, event: str, called: Any) -> None:
            nonlocal left
            if event == "c_call" and (isinstance(getattr(called, "__self__", None), sqlite3.Connection) or called.__name__ in FILE_CALLS):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)

    return prepare


def kill_in(function: str, time: int = 1) -> Callable[[], None]:
    """When a Python function of this name is called for the n-th time."""

    def prepare() -> None:
        left = time

        def watch(frame: FrameType, event: str, called: Any) -> None:
            nonlocal left
            if event == "call" and frame.f_code.co_qualname == function:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)

    return prepare


def full_at(size: int) -> Callable[[], None]:
    """No file may grow over this many bytes: what a full disk does to a database and to a copy."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
