"""A bounded queue in front of a few threads: full means refused, late or abandoned means never begun."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from quarry_contract.errors import ErrorCode, QuarryError

T = TypeVar("T")


class Workers:
    """`threads` run side by side, `max_waiting` more may wait; the event loop never blocks."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "search")
        self._threads, self._limit = threads, threads + max_waiting
        self._lock = threading.Lock()
        self._seconds = 0.02  # of one piece of work: a first guess, replaced by what is measured
        self.admitted = 0
        self.refused = 0
        self.dropped = 0

    async def run(self, work: Callable[[], T], deadline: float) -> T:
        """Run `work` in a thread. `deadline` is on time.monotonic()'s clock; when it passes, or the caller is cancelled, waiting work is dropped.

        Raises:
            QuarryError: `overloaded`, `deadline_exceeded`, `not_ready` while stopping; and what `work` raises.
        """
        self._admit()
        try:
            future = self._pool.submit(self._timed, work)
        except RuntimeError:
            self._leave()
            raise QuarryError(ErrorCode.NOT_READY, "the service is stopping") from None
        future.add_done_callback(lambda _: self._leave())
        try:
            waiter = asyncio.wrap_future(future)
            waiter.add_done_callback(lambda w: w.cancelled() or w.exception())  # nobody may be left to look at it
            done, _ = await asyncio.wait([waiter], timeout=max(0.0, deadline - time.monotonic()))
        finally:
            self.dropped += future.cancel()  # False once begun or done
        if not done:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED)
        return future.result()

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> None:
        with self._lock:
            if self.admitted >= self._limit:
                self.refused += 1
                wait = self.admitted * self._seconds / self._threads
                raise QuarryError(ErrorCode.OVERLOADED, "the queue is full", retry_after_sec=max(1, math.ceil(wait)))
            self.admitted += 1

    def _leave(self) -> None:
        with self._lock:
            self.admitted -= 1

    def _timed(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            with self._lock:
                self._seconds += 0.2 * (time.perf_counter() - began - self._seconds)
