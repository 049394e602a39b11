"""The queue: refused when full, dropped when late or abandoned, and one failure is nobody else's."""

import asyncio
import threading
import time

import pytest
from quarry_contract.errors import ErrorCode, QuarryError

from quarry_retriever.workers import Workers

SOON = 30.0


async def refused(workers: Workers, work: object, deadline: float) -> ErrorCode:
    with pytest.raises(QuarryError) as caught:
        await workers.run(work, deadline)  # type: ignore[arg-type]
    assert caught.value.code is not ErrorCode.OVERLOADED or (caught.value.retry_after_sec or 0) >= 1
    return caught.value.code


async def test_full_is_refused_and_the_accepted_are_answered() -> None:
    workers, go = Workers(1, 2), threading.Event()
    deadline = time.monotonic() + SOON
    accepted = [asyncio.create_task(workers.run(go.wait, deadline)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await refused(workers, lambda: 1, deadline) is ErrorCode.OVERLOADED
    go.set()
    assert await asyncio.gather(*accepted) == [True] * 3
    assert await workers.run(lambda: 2, deadline) == 2
    assert (workers.refused, workers.dropped, workers.admitted) == (1, 0, 0)
    workers.close()


async def test_abandoned_and_late_work_never_begins() -> None:
    workers, go, begun = Workers(1, 8), threading.Event(), []
    deadline = time.monotonic() + SOON
    busy = asyncio.create_task(workers.run(go.wait, deadline))
    abandoned = asyncio.create_task(workers.run(lambda: begun.append("abandoned"), deadline))
    neighbour = asyncio.create_task(workers.run(lambda: begun.append("neighbour"), deadline))
    await asyncio.sleep(0)
    abandoned.cancel()
    assert await refused(workers, lambda: begun.append("late"), time.monotonic() + 0.02) is ErrorCode.DEADLINE_EXCEEDED
    assert await refused(workers, lambda: begun.append("too late"), time.monotonic() - 1) is ErrorCode.DEADLINE_EXCEEDED
    assert workers.dropped == 3
    go.set()
    await asyncio.gather(busy, neighbour)
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    assert begun == ["neighbour"]
    assert workers.admitted == 0
    workers.close()


async def test_a_failure_stays_with_its_request() -> None:
    workers = Workers(2, 8)
    deadline = time.monotonic() + SOON

    def fail() -> int:
        raise ZeroDivisionError

    results = await asyncio.gather(*[workers.run(fail if n % 3 == 0 else lambda: 7, deadline) for n in range(9)], return_exceptions=True)
    assert [r if r == 7 else type(r) for r in results] == [ZeroDivisionError, 7, 7] * 3
    workers.close()


async def test_the_event_loop_does_not_wait() -> None:
    workers, go = Workers(1, 1), threading.Event()
    task = asyncio.create_task(workers.run(go.wait, time.monotonic() + SOON))
    await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    assert await task
    workers.close()
    assert await refused(workers, lambda: 1, time.monotonic() + SOON) is ErrorCode.NOT_READY
    assert workers.admitted == 0
