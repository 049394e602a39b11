"""The gate's report for people: Markdown with its plots beside it."""

from collections.abc import Sequence
from pathlib import Path

from .metrics import METRICS
from .plots import differences_diagram, reliability_diagram, risk_coverage_diagram
from .results import Array, Evaluation, table
from .summary import by_slice
from .verdict import Finding, Verdict

MARKS = {"passed": "passed", "refused": "**refused**", "not_judged": "not judged"}
HEADINGS = {"floor": "absolute", "overall": "overall", "slice": "slice", "improvement": "improvement"}
IN_SLICES = ("f1", "answerable_f1", "wrong_among_answered", "coverage", "mrr", "recall_at_5")
PERCENT = ("exact_match", "f1", "answerable_exact_match", "answerable_f1")


def write_report(verdict: Verdict, challenger: Evaluation, champion: Evaluation | None, out: Path) -> None:
    """report.md, and reliability.png, risk-coverage.png, differences.png where there is something to draw."""
    plots = _plots(verdict, challenger, champion, out)
    both = {"challenger": challenger} | ({"champion": champion} if champion else {})
    parts = [
        f"# Gate: {'passed' if verdict.passed else 'refused'}",
        _what(both),
        "\n".join(f"- {f.reason}" for f in verdict.refusals),
        "## Rules\n\n" + _table(("rule", "metric", "verdict", "why"), [_line(f) for f in verdict.findings]),
        "## Figures\n\n" + _figures(both),
        "## Slices\n\n" + _slices(both),
        "\n\n".join(f"![{name}]({name})" for name in plots),
    ]
    (out / "report.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _what(both: dict[str, Evaluation]) -> str:
    one = both["challenger"]
    models = ", ".join(f"{name} `{e.artefact_digest[:12]}`" for name, e in both.items())
    asked = f", over {one.passages} passages each" if one.passages > 1 else ""
    return f"{one.kind}: {models}; {len(one.rows)} questions of set `{one.data_digest[:12]}`{asked}. Intervals are 95 %, bootstrapped in pairs."


def _line(finding: Finding) -> tuple[str, ...]:
    where = HEADINGS[finding.check] + (f" {finding.slice}" if finding.slice else "")
    return where, finding.metric, MARKS[finding.status], finding.reason


def _figures(both: dict[str, Evaluation]) -> str:
    names = [name for name in both["challenger"].summary if not name.endswith(("_low", "_high"))]
    return _table(("figure", *both), [(name, *(_with_interval(e.summary, name) for e in both.values())) for name in names])


def _with_interval(figures: dict[str, float], name: str) -> str:
    if name not in figures:
        return "-"
    ends = [figures.get(f"{name}_{end}") for end in ("low", "high")]
    return f"{figures[name]:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends[0] is not None and ends[1] is not None else "")


def _slices(both: dict[str, Evaluation]) -> str:
    found = {name: by_slice(e.rows) for name, e in both.items()}
    metrics = [name for name in IN_SLICES if name in both["challenger"].summary]
    rows = []
    for kind, figures in found["challenger"].items():
        cells = [" / ".join(f"{s[kind][m]:.3g}" if m in s[kind] else "-" for s in found.values()) for m in metrics]
        rows.append((kind, f"{figures['questions']:.0f}", *cells))
    return f"{' / '.join(both)}:\n\n" + _table(("slice", "questions", *metrics), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _plots(verdict: Verdict, challenger: Evaluation, champion: Evaluation | None, out: Path) -> list[str]:
    drawn = []
    compared = [f for f in verdict.findings if f.difference is not None]
    if compared:
        differences_diagram([_difference(f) for f in compared], out / "differences.png")
        drawn.append("differences.png")
    if challenger.kind == "reader":
        evaluations = {"challenger": challenger} | ({"champion": champion} if champion else {})
        said: dict[str, tuple[Array, Array]] = {}
        for name, evaluation in evaluations.items():
            values = table(evaluation.rows)
            said[name] = (values["confidence"], values["right"])
        points = [(e.summary["coverage"], e.summary.get("wrong_among_answered", 0.0)) for e in evaluations.values()]
        reliability_diagram(said, out / "reliability.png")
        risk_coverage_diagram(said, out / "risk-coverage.png", points)
        drawn += ["reliability.png", "risk-coverage.png"]
    return drawn


def _difference(finding: Finding) -> tuple[str, float, float, float, float, bool]:
    """In points and towards better, so that metrics of both directions and units stand on one axis."""
    assert finding.difference is not None
    assert finding.interval is not None
    scale = (1 if finding.metric in PERCENT else 100) * (1 if METRICS[finding.metric].higher_is_better else -1)
    low, high = sorted(scale * end for end in finding.interval)
    label = f"{finding.slice or 'all'}: {finding.metric} ({finding.questions})"
    return label, scale * finding.difference, low, high, abs(scale) * finding.limit, finding.status == "refused"
