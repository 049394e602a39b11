"""Batching by token budget: no timer, little padding, a bounded queue, and nobody pays for a neighbour.

When a runner is free it takes the oldest request's windows, then windows of nearly the same length from later requests, while
the batch stays within the token budget and the padding bound. A lone request never waits.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quarry_contract.errors import ErrorCode, QuarryError

from .session import Array

Row = tuple[Sequence[int], Sequence[int]]  # token ids, segment ids
Run = Callable[[Sequence[Row]], list[Array]]


@dataclass(frozen=True)
class SchedulerSettings:
    """Budgets in tokens. `runners` threads call the model side by side."""

    runners: int
    tokens_per_batch: int = 512
    max_padding: float = 0.08
    max_queued_tokens: int = 200_000


@dataclass
class Counters:
    """What happened since the start; read by the metrics endpoint."""

    batches: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    dropped_tokens: int = 0
    refused_requests: int = 0


@dataclass(eq=False)
class _Job:
    """One request's windows. Everything but `future` is guarded by the scheduler's lock."""

    rows: Sequence[Row]
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[list[Array]]]"
    waiting: list[int]  # rows not yet taken, shortest last
    results: list[list[Array]] = field(default_factory=list)
    left: int = 0
    over: bool = False


class Scheduler:
    """Runs rows of many requests through one model."""

    def __init__(self, run: Run, settings: SchedulerSettings) -> None:
        self._run = run
        self._settings = settings
        self._jobs: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._queued_tokens = 0
        self._tokens_per_sec = 2_000.0  # a first guess, replaced by what is measured
        self._stopping = False
        self.counters = Counters()
        self._threads = [threading.Thread(target=self._work, name=f"runner-{i}", daemon=True) for i in range(settings.runners)]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens accepted and not yet computed."""
        return self._queued_tokens

    def close(self) -> None:
        """Let the runners end after the batch they are in."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()

    async def submit(self, rows: Sequence[Row], deadline: float) -> list[list[Array]]:
        """The model's outputs for each row, padding cut off: one list of arrays per row.

        `deadline` is on time.monotonic()'s clock.

        Raises:
            QuarryError: `overloaded` when the queue is full, `deadline_exceeded`, `internal` when the model fails on these rows.
        """
        loop = asyncio.get_running_loop()
        waiting = sorted(range(len(rows)), key=lambda i: len(rows[i][0]), reverse=True)
        job = _Job(rows, deadline, loop, loop.create_future(), waiting, [[] for _ in rows], len(rows))
        self._admit(job)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await job.future
        except TimeoutError:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None
        finally:
            self._forget(job)

    def _admit(self, job: _Job) -> None:
        tokens = sum(len(ids) for ids, _ in job.rows)
        with self._ready:
            if self._stopping:
                raise QuarryError(ErrorCode.NOT_READY, "the service is stopping")
            wait = self._queued_tokens / self._tokens_per_sec
            if self._queued_tokens and self._queued_tokens + tokens > self._settings.max_queued_tokens:
                self.counters.refused_requests += 1
                raise QuarryError(ErrorCode.OVERLOADED, "the queue is full", retry_after_sec=max(1, round(wait)))
            self._queued_tokens += tokens
            self._jobs.append(job)
            self._ready.notify_all()

    def _forget(self, job: _Job) -> None:
        """Drop what nobody waits for, before it costs anything."""
        with self._ready:
            dropped = sum(len(job.rows[i][0]) for i in job.waiting)
            job.waiting.clear()
            job.over = True
            self._queued_tokens -= dropped
            self.counters.dropped_tokens += dropped
            if job in self._jobs:
                self._jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._jobs and not self._stopping:
                    self._ready.wait()
                if self._stopping and not self._jobs:
                    return
                batch = self._take()
                if not batch and self._jobs:
                    self._ready.wait(0.005)  # only expired requests: their own time-outs are about to forget them
            if batch:
                self._compute(batch)

    def _take(self) -> list[tuple[_Job, int]]:
        """The next batch; called with the lock held."""
        batch: list[tuple[_Job, int]] = []
        longest = real = 0
        now = time.monotonic()
        for job in list(self._jobs):
            if job.deadline <= now:
                continue  # its own timeout forgets it
            while (index := self._fitting(job, longest, len(batch), real)) is not None:
                row = job.waiting.pop(index)
                length = len(job.rows[row][0])
                longest, real = max(longest, length), real + length
                batch.append((job, row))
            if not job.waiting:
                self._jobs.remove(job)
        return batch

    def _fitting(self, job: _Job, longest: int, count: int, real: int) -> int | None:
        """The longest waiting row that fits the batch; rows are sorted longest first. An empty batch takes any."""
        for index, row in enumerate(job.waiting):
            length = len(job.rows[row][0])
            top = max(longest, length)
            padded = top * (count + 1)
            if not count or (padded <= self._settings.tokens_per_batch and padded - real - length <= self._settings.max_padding * padded):
                return index
        return None

    def _compute(self, batch: Sequence[tuple[_Job, int]]) -> None:
        began = time.perf_counter()
        try:
            outputs = self._outputs(batch)
        except Exception:
            self._apart(batch)
            return
        self._deliver(batch, outputs, time.perf_counter() - began)

    def _apart(self, batch: Sequence[tuple[_Job, int]]) -> None:
        """A batch failed: run each request's rows alone, so that only the one at fault fails."""
        jobs = list(dict.fromkeys(job for job, _ in batch))
        for job in jobs:
            own = [(j, row) for j, row in batch if j is job]
            began = time.perf_counter()
            try:
                outputs = self._outputs(own)
            except Exception as error:
                self._fail(own, error)
            else:
                self._deliver(own, outputs, time.perf_counter() - began)

    def _outputs(self, batch: Sequence[tuple[_Job, int]]) -> list[list[Array]]:
        """Run the model; each row's outputs, padding cut off. Raises whatever the model raises, or when it gives fewer rows."""
        rows = [job.rows[row] for job, row in batch]
        outputs = self._run(rows)
        lengths = [len(ids) for ids, _ in rows]
        return [[o[i, :n] if o.ndim > 1 and o.shape[1] >= n else o[i] for o in outputs] for i, n in enumerate(lengths)]

    def _deliver(self, batch: Sequence[tuple[_Job, int]], outputs: Sequence[list[Array]], seconds: float) -> None:
        lengths = [len(job.rows[row][0]) for job, row in batch]
        done: list[_Job] = []
        with self._ready:
            self._account(lengths, seconds)
            for i, (job, row) in enumerate(batch):
                job.results[row] = outputs[i]
                job.left -= 1
                if job.left == 0:
                    done.append(job)
        for job in done:
            _tell(job, job.results, None)

    def _account(self, lengths: Sequence[int], seconds: float) -> None:
        tokens = sum(lengths)
        self._queued_tokens -= tokens
        self.counters.batches += 1
        self.counters.real_tokens += tokens
        self.counters.padded_tokens += max(lengths) * len(lengths)
        measured = self._settings.runners * tokens / max(seconds, 1e-6)
        self._tokens_per_sec += 0.2 * (measured - self._tokens_per_sec)

    def _fail(self, batch: Sequence[tuple[_Job, int]], error: Exception) -> None:
        job = batch[0][0]
        with self._ready:
            self._queued_tokens -= sum(len(j.rows[row][0]) for j, row in batch)
        problem = QuarryError(ErrorCode.INTERNAL)
        problem.__cause__ = error
        _tell(job, None, problem)


def _tell(job: _Job, results: list[list[Array]] | None, error: Exception | None) -> None:
    with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody is left to tell
        job.loop.call_soon_threadsafe(_settle, job.future, results, error)


def _settle(future: "asyncio.Future[list[list[Array]]]", results: list[list[Array]] | None, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif results is not None:
        future.set_result(results)
