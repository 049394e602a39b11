"""Watch a canary's service levels for a set time: `slo.py --prometheus URL --release ID --live ID`.

Every few seconds Prometheus is asked for the candidate's error rate, 95th percentile of the time to answer, and share of
abstentions against the live release's. An objective that is missed in `PATIENCE` looks in a row breaks the canary off at once.

Exit codes: 0 = it kept its objectives on enough questions; 1 = an objective was missed, by `objective` in the report; 2 = it
cannot be told: Prometheus does not answer, or too few questions came. Only 0 is a reason to promote. The report is JSON on
standard output. Standard library only.
"""

import argparse
import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass

KEPT, MISSED, UNTOLD = 0, 1, 2
PATIENCE = 3
ANSWERS = "quarry_release_answers_total"
# docs/errors.md: what a caller did wrong is no fault of the release. `ok` and these are the rest.
CALLERS = "ok|invalid_request|unauthorised|forbidden|not_found|method_not_allowed|too_large|unsupported_media_type|not_implemented|cancelled"
QUERIES = {
    "questions": f'sum(increase({ANSWERS}{{release="%(release)s"}}[%(window)s]))',
    "error_rate": f'(sum(rate({ANSWERS}{{release="%(release)s",code!~"{CALLERS}"}}[%(window)s])) or vector(0)) / '
    f'sum(rate({ANSWERS}{{release="%(release)s"}}[%(window)s]))',
    "p95_sec": 'histogram_quantile(0.95, sum by (le) (rate(quarry_release_answer_seconds_bucket{release="%(release)s"}[%(window)s])))',
    "abstained": '(sum(rate(quarry_release_abstained_total{release="%(release)s"}[%(window)s])) or vector(0)) / '
    f'sum(rate({ANSWERS}{{release="%(release)s",code="ok"}}[%(window)s]))',
}


class Unanswered(Exception):
    """Prometheus cannot be asked; the message says why."""


@dataclass(frozen=True)
class Objectives:
    """What a canary must keep. Rates are shares of one; `abstained_more` is above the live release's share."""

    error_rate: float
    p95_sec: float
    abstained_more: float
    least_questions: int


@dataclass(frozen=True)
class Look:
    """One look at a release. NaN: there is no such figure yet."""

    questions: float
    error_rate: float
    p95_sec: float
    abstained: float


def ask(prometheus: str, query: str) -> float:
    """The value of an instant query that gives one sample; NaN without any.

    Raises:
        Unanswered: no reply, or one that is no vector.
    """
    address = f"{prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            found = json.load(reply)["data"]["result"]
        return float(found[0]["value"][1]) if found else math.nan
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Unanswered(f"Prometheus at {prometheus} does not answer: {error}") from None


def look(prometheus: str, release: str, window: str) -> Look:
    """All figures of one release over the last `window`. Raises as ask."""
    return Look(**{name: ask(prometheus, query % {"release": release, "window": window}) for name, query in QUERIES.items()})


def missed(canary: Look, live: Look, least: Objectives) -> list[str]:
    """The objectives that this look misses; none while nothing was asked."""
    limits = {"error_rate": least.error_rate, "p95_sec": least.p95_sec, "abstained": least.abstained_more}
    if not math.isnan(live.abstained):
        limits["abstained"] += live.abstained
    return [name for name, limit in limits.items() if getattr(canary, name) > limit]  # NaN is above nothing


def looks(args: argparse.Namespace) -> Iterator[tuple[Look, Look]]:
    """Of candidate and live release, until the time is over. Raises Unanswered when Prometheus is silent `PATIENCE` times in a row."""
    until, silent = time.monotonic() + args.minutes * 60, 0
    while True:
        try:
            yield look(args.prometheus, args.release, args.window), look(args.prometheus, args.live, args.window)
            silent = 0
        except Unanswered:
            silent += 1
            if silent == PATIENCE:
                raise
        if time.monotonic() + args.every > until:
            return
        time.sleep(args.every)


def watch(args: argparse.Namespace) -> tuple[int, dict[str, object]]:
    """Exit code and report."""
    least = Objectives(args.error_rate, args.p95_sec, args.abstained_more, args.least_questions)
    in_a_row: dict[str, int] = {}
    canary = live = Look(0, math.nan, math.nan, math.nan)
    asked = 0.0
    for canary, live in looks(args):
        asked = max(asked, 0 if math.isnan(canary.questions) else canary.questions)
        found = missed(canary, live, least)
        in_a_row = {name: in_a_row.get(name, 0) + 1 for name in found}
        print(f"questions {asked:.0f}, error rate {canary.error_rate:.4f}, p95 {canary.p95_sec:.2f} s, abstained {canary.abstained:.3f}", file=sys.stderr)
        if broken := [name for name, times in in_a_row.items() if times >= PATIENCE]:
            return MISSED, report(args, "missed", broken, canary, live)
    if asked < least.least_questions:
        return UNTOLD, report(args, "too few questions", [], canary, live)
    return KEPT, report(args, "kept", [], canary, live)


def report(args: argparse.Namespace, verdict: str, objectives: list[str], canary: Look, live: Look) -> dict[str, object]:
    """What was seen last, and the verdict; a figure there was none of is null."""
    seen = {name: {k: None if math.isnan(v) else round(v, 4) for k, v in asdict(of).items()} for name, of in (("canary", canary), ("live", live))}
    return {"verdict": verdict, "release": args.release, "live": args.live, "objective": objectives, **seen}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="slo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", required=True, help="its address")
    parser.add_argument("--release", required=True, help="id of the candidate")
    parser.add_argument("--live", required=True, help="id of the live release")
    parser.add_argument("--minutes", type=float, default=30, help="how long to watch")
    parser.add_argument("--every", type=float, default=30, help="seconds between looks")
    parser.add_argument("--window", default="5m", help="of each rate, as Prometheus writes it; at least four scrapes long")
    parser.add_argument("--error-rate", type=float, default=0.01)
    parser.add_argument("--p95-sec", type=float, default=4.0, help="half of the gateway's own deadline")
    parser.add_argument("--abstained-more", type=float, default=0.1, help="share above the live release's")
    parser.add_argument("--least-questions", type=int, default=50, help="within one window")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = parse()
    try:
        code, found = watch(args)
    except Unanswered as error:
        code, found = UNTOLD, {"verdict": str(error), "release": args.release, "live": args.live, "objective": []}
    print(json.dumps(found))
    sys.exit(code)


if __name__ == "__main__":
    main()
