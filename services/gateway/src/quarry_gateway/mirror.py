"""Puts a share of the questions to the candidate release too, after the live one has answered, and counts how the two agree.

Nobody waits for it, nobody sees its answers, and of a question only this comparison is kept.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from quarry_contract.messages import AnswerResponse

from .releases import Releases, ServedRelease
from .telemetry import Metrics

AT_ONCE = 4  # questions in the candidate's hands; what comes meanwhile is not mirrored

Answer = Callable[[ServedRelease], Awaitable[AnswerResponse]]


class Mirror:
    """The comparisons under way."""

    def __init__(self, releases: Releases, metrics: Metrics) -> None:
        self._releases = releases
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def wants(self, release: ServedRelease) -> bool:
        """Whether a question that `release` has answered is to be put to the candidate: by chance, the live one's only."""
        releases = self._releases
        chosen = release is releases.live and releases.candidate is not None and random.random() < releases.mirror  # noqa: S311 - sampling
        if chosen and len(self._tasks) >= AT_ONCE:
            self._metrics.mirrored.labels("skipped").inc()
            return False
        return chosen

    def put(self, answered: AnswerResponse, seconds: float, answer: Answer) -> None:
        """Have the candidate answer, by `answer`, and compare; `seconds` is what the live release took."""
        candidate = self._releases.candidate
        if candidate is None:
            return
        candidate.requests += 1
        task = asyncio.create_task(self._compare(candidate, answered, seconds, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, candidate: ServedRelease, answered: AnswerResponse, seconds: float, answer: Answer) -> None:
        began = time.monotonic()
        try:
            outcome = agreement(answered, await answer(candidate))
            self._metrics.mirror_seconds.labels("live").observe(seconds)
            self._metrics.mirror_seconds.labels("candidate").observe(time.monotonic() - began)
        except Exception:  # whatever it is, it is the candidate's failure and must not touch the caller's reply
            outcome = "failed"
        finally:
            self._releases.let_go(candidate)
        self._metrics.mirrored.labels(outcome).inc()

    async def close(self) -> None:
        """Stop what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def agreement(live: AnswerResponse, candidate: AnswerResponse) -> str:
    """`same`, `other`, `both_abstained`, `only_live` or `only_candidate`: by the words of the first answer, in lower case."""
    first, second = (r.answers[0].text.lower() if r.answers else None for r in (live, candidate))
    if first is None or second is None:
        return "both_abstained" if first == second else "only_candidate" if first is None else "only_live"
    return "same" if first == second else "other"
