"""What the gate says: one finding a rule, and the verdict over them."""

from dataclasses import dataclass
from typing import Literal

Check = Literal["floor", "overall", "slice", "improvement"]
Status = Literal["passed", "refused", "not_judged"]


@dataclass(frozen=True)
class Finding:
    """One rule applied. `difference` and its interval are challenger - champion in the metric's unit; `limit` is the rule's."""

    check: Check
    status: Status
    metric: str
    reason: str
    limit: float
    slice: str | None = None
    questions: int = 0
    challenger: float | None = None
    champion: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """Passed when no finding refuses."""

    passed: bool
    findings: tuple[Finding, ...]

    @property
    def refusals(self) -> list[Finding]:
        return [f for f in self.findings if f.status == "refused"]
