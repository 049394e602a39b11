"""Every environment's life: what was applied keeps the rules, a second plan is empty, a change touches only what it should, and destroy leaves nothing."""

import pytest

from changes import OPENS, PROTECTED, VARIABLES
from conftest import ASKED, Life
from held import KINDS
from rules import broken
from runner import ENVIRONMENTS, planned

CHANGED = [name for name, changes in VARIABLES.items() if changes]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_rule_is_broken(ended: dict[str, Life], name: str) -> None:
    """As in the plans, with all that only an apply makes known: policies, with their resources."""
    state = ended[name].applied.result().state
    assert len(state) > 150
    assert broken(state) == {}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_second_plan_is_empty(ended: dict[str, Life], name: str) -> None:
    again = ended[name].applied.result().again
    assert planned(again) == {}
    assert not again["applyable"]  # nor would an output change


def test_each_environment_is_changed() -> None:
    assert {*CHANGED, PROTECTED} == set(ENVIRONMENTS)


@pytest.mark.parametrize("name", CHANGED)
def test_changes_touch_only_what_they_should(ended: dict[str, Life], name: str) -> None:
    each = VARIABLES[name].values()
    together = {address: what for touched in each for address, what in touched.items()}
    assert len(together) == sum(map(len, each)), "what two of them touch cannot be told apart"
    assert ended[name].changed["variables"].result() == together


def test_a_new_revision_is_tried_before_it_is_live(ended: dict[str, Life]) -> None:
    """moto knows no canaries: by plan. A revision that is not that of api.json is refused, with the right one named."""
    changed = ended[ASKED].changed
    stage, deployment = "module.edge.aws_api_gateway_stage.this", 'module.edge.aws_api_gateway_deployment.this["00000000"]'
    assert changed["canary"].result() == {deployment: "create", stage: "update"}
    assert f"its revision is {ended[ASKED].applied.result().terraform.live()}" in " ".join(changed["unknown"].result().split())


def test_protection_is_taken_away_and_nothing_else(ended: dict[str, Life]) -> None:
    """Applied, as docs/aws.md tells before destroy."""
    assert ended[PROTECTED].changed["opened"].result() == OPENS


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_everything_that_is_made_is_looked_for(ended: dict[str, Life], name: str) -> None:
    assert {r["type"] for r in ended[name].applied.result().state} <= KINDS


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_destroy_leaves_nothing(ended: dict[str, Life], name: str) -> None:
    """But for the snapshot of a database that is to leave one."""
    before, after = ended[name].applied.result().before, ended[name].left()
    left = {kind: found - before[kind] for kind, found in after.holds.items() if found - before[kind]}
    assert after.state == ""
    assert left == ({"a database's snapshot": {f"quarry-{name}-final"}} if name == PROTECTED else {})
