"""First of all: nobody pays for a neighbour."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.errors import ErrorCode, QuarryError

from quarry_runtime.scheduler import Row, Scheduler, SchedulerSettings

POISON = 666


class Model:
    """Doubles token ids. Fails on POISON; can be held, and remembers its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.batches: list[list[int]] = []

    def __call__(self, rows: Sequence[Row]) -> list[np.ndarray[Any, Any]]:
        self.open.wait(10)
        self.batches.append([len(ids) for ids, _ in rows])
        if any(POISON in ids for ids, _ in rows):
            raise RuntimeError("poisoned")
        longest = max(len(ids) for ids, _ in rows)
        out = np.zeros((len(rows), longest), np.float32)
        for i, (ids, _) in enumerate(rows):
            out[i, : len(ids)] = np.array(ids) * 2
        return [out]


def row(*ids: int) -> Row:
    return list(ids), [0] * len(ids)


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


async def held(scheduler: Scheduler, model: Model) -> "asyncio.Task[Any]":
    """Keep the only runner busy, so that what is submitted next waits and is batched together."""
    model.open.clear()
    task = asyncio.ensure_future(scheduler.submit([row(1)], soon()))
    while scheduler._jobs or not task:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    return task


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def scheduler(model: Model) -> Any:
    made = Scheduler(model, SchedulerSettings(runners=1, tokens_per_batch=64, max_queued_tokens=1000))
    yield made
    model.open.set()
    made.close()


async def test_a_failing_request_does_not_hurt_its_batch(scheduler: Scheduler, model: Model) -> None:
    blocker = await held(scheduler, model)
    good = [asyncio.ensure_future(scheduler.submit([row(i, i)], soon())) for i in range(5)]
    bad = asyncio.ensure_future(scheduler.submit([row(POISON, 1)], soon()))
    await asyncio.sleep(0.02)
    model.open.set()
    for i, task in enumerate(good):
        [[out]] = await task
        assert out.tolist() == [2 * i, 2 * i]
    with pytest.raises(QuarryError) as failure:
        await bad
    assert failure.value.code is ErrorCode.INTERNAL
    assert len(model.batches[1]) == 6, "they were one batch"
    await blocker
    assert scheduler.queued_tokens == 0


async def test_a_cancelled_request_does_not_hurt_its_batch(scheduler: Scheduler, model: Model) -> None:
    blocker = await held(scheduler, model)
    tasks = [asyncio.ensure_future(scheduler.submit([row(i, i)], soon())) for i in range(6)]
    await asyncio.sleep(0.02)
    tasks[2].cancel()
    await asyncio.sleep(0.02)
    model.open.set()
    for i in (0, 1, 3, 4, 5):
        [[out]] = await tasks[i]
        assert out.tolist() == [2 * i, 2 * i]
    assert len(model.batches[1]) == 5, "what nobody waits for is not computed"
    assert scheduler.counters.dropped_tokens == 2
    await blocker
    assert scheduler.queued_tokens == 0


async def test_cancelling_while_the_model_runs_leaves_the_others_their_results(scheduler: Scheduler, model: Model) -> None:
    model.open.clear()
    tasks = [asyncio.ensure_future(scheduler.submit([row(i)], soon())) for i in range(3)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()
    model.open.set()
    assert [(await t)[0][0].tolist() for t in tasks[1:]] == [[2.0], [4.0]]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(scheduler: Scheduler, model: Model) -> None:
    blocker = await held(scheduler, model)
    waiting = [asyncio.ensure_future(scheduler.submit([row(*range(100))], soon())) for _ in range(9)]
    await asyncio.sleep(0.02)
    with pytest.raises(QuarryError) as refusal:
        await scheduler.submit([row(*range(200))], soon())
    assert refusal.value.code is ErrorCode.OVERLOADED
    assert refusal.value.retry_after_sec is not None and refusal.value.retry_after_sec >= 1
    model.open.set()
    await asyncio.gather(blocker, *waiting)
    await scheduler.submit([row(*range(200))], soon())
    assert scheduler.counters.refused_requests == 1


async def test_work_past_its_deadline_is_never_begun(scheduler: Scheduler, model: Model) -> None:
    blocker = await held(scheduler, model)
    with pytest.raises(QuarryError) as late:
        await scheduler.submit([row(7, 7, 7)], soon(0.05))
    assert late.value.code is ErrorCode.DEADLINE_EXCEEDED
    model.open.set()
    await blocker
    await scheduler.submit([row(1)], soon())
    assert [3] not in model.batches
    assert scheduler.queued_tokens == 0


async def test_a_lone_request_does_not_wait_for_company(scheduler: Scheduler, model: Model) -> None:
    [[out]] = await scheduler.submit([row(4)], soon())
    assert out.tolist() == [8]
    assert model.batches == [[1]]


async def test_a_row_over_the_budget_runs_alone(scheduler: Scheduler, model: Model) -> None:
    results = await scheduler.submit([row(*range(90)), row(1), row(*range(80))], soon())
    assert [len(r[0]) for r in results] == [90, 1, 80]
    assert [90] in model.batches and [80] in model.batches


async def test_a_runner_outlives_too_few_outputs_and_callers_whose_loop_is_gone() -> None:
    def run(rows: Sequence[Row]) -> list[np.ndarray[Any, Any]]:
        time.sleep(0.05)
        return [np.zeros((0 if rows[0][0][0] == POISON else len(rows), 4), np.float32)]

    scheduler = Scheduler(run, SchedulerSettings(runners=1))
    with pytest.raises(QuarryError) as failed:
        await scheduler.submit([row(POISON)], soon())
    assert failed.value.code is ErrorCode.INTERNAL

    def leave() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(scheduler.submit([row(1)], soon()))
        loop.run_until_complete(asyncio.sleep(0.01))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    await asyncio.to_thread(leave)
    assert len(await scheduler.submit([row(2)], soon())) == 1
    assert scheduler.queued_tokens == 0
    scheduler.close()


async def test_after_close_nothing_is_taken(scheduler: Scheduler) -> None:
    scheduler.close()
    with pytest.raises(QuarryError) as stopped:
        await scheduler.submit([row(1)], soon())
    assert stopped.value.code is ErrorCode.NOT_READY


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=8), min_size=1, max_size=12), st.integers(1, 3))
def test_every_request_gets_its_own_rows_and_batches_keep_their_bounds(requests: list[list[int]], runners: int) -> None:
    model = Model()
    scheduler = Scheduler(model, SchedulerSettings(runners=runners, tokens_per_batch=64, max_queued_tokens=100_000))

    async def ask(base: int, lengths: list[int]) -> None:
        results = await scheduler.submit([row(*([base + i] * n)) for i, n in enumerate(lengths)], soon(30))
        assert [r[0].tolist() for r in results] == [[2.0 * (base + i)] * n for i, n in enumerate(lengths)]

    async def everybody() -> None:
        await asyncio.gather(*(ask(1000 * (i + 1), lengths) for i, lengths in enumerate(requests)))

    asyncio.run(everybody())
    scheduler.close()
    for lengths in model.batches:
        padded = max(lengths) * len(lengths)
        assert len(lengths) == 1 or padded <= 64
        assert padded - sum(lengths) <= 0.08 * padded
    assert scheduler.queued_tokens == 0
    assert sum(map(sum, model.batches)) == sum(map(sum, requests))
