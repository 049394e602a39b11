"""Real `airflow dags test` runs: a moto server, the embedded index, Kubeflow's stand-in; commands in their own environments.

One Airflow and one QUARRY_HOME for all of them: the first run is everyone's past.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import FILES, World, squad

FIRST, WORSE, GONE = "2026-03-02", "2026-03-03", "2026-03-04"
RUNS = "/apis/v2beta1/runs"
OLDER = """INSERT INTO asset_event (asset_id, extra, source_map_index, timestamp)
           SELECT asset_id, json_set(extra, '$.source', 'older'), source_map_index, '2026-01-01 00:00:00.000000' FROM asset_event"""
ALL = ("collect", "index", "evaluate", "release", "record")


@dataclass(frozen=True)
class Past:
    world: World
    code: int
    log: str
    started: list[dict[str, Any]]  # the Kubeflow runs


@pytest.fixture(scope="module")
def past(world: World) -> Past:
    """The first run. Kubeflow refuses until the first try to release has failed."""
    before = len(world.kubeflow.runs({RUNS: 503}))
    log = ""
    with world.dags_test(FIRST) as (process, lines):
        for line in lines:
            log += line
            if "refused (503)" in line:
                world.kubeflow.runs({})
        code = process.wait()
    return Past(world, code, log, world.kubeflow.runs()[before:])


def states(**tasks: str) -> dict[str, str]:
    return dict.fromkeys(ALL, "success") | tasks


def test_new_documents_come_to_a_release_and_what_fails_once_is_tried_again(past: Past) -> None:
    assert past.code == 0, past.log[-5000:]
    found = past.world.states(FIRST)
    assert {task: state for task, (state, _) in found.items()} == states()
    assert {task for task, (_, tries) in found.items() if tries > 1} == {"release"}
    [run] = past.started
    assert (run["pipeline"], run["runtime_config"]["parameters"]) == ("publish-retriever", {"mlflow_uri": "http://mlflow:5000"})
    assert past.world.xcom(FIRST, "release")["run"] == run["run_id"]
    assert past.world.xcom(FIRST, "evaluate") == {"asked": 2, "recall": 1.0, "floor": 0.95}


def test_refused_documents_fail_nothing_and_are_seen(past: Past) -> None:
    made = past.world.xcom(FIRST, "index")
    assert {k: made[k] for k in ("documents", "added", "refused")} == {"documents": 2, "added": 2, "refused": {"damaged": 1}}
    assert "refused: damaged: bad.pdf" in past.log
    [(extra,)] = past.world.rows("SELECT extra FROM asset_event ORDER BY id LIMIT 1")
    assert '"refused": {"damaged": 1}' in extra
    sizes = past.world.rows("SELECT max(length(value)) FROM xcom")
    assert sizes[0][0] < 1000


def test_the_index_is_that_of_the_plain_command_on_the_folder_and_on_the_prefix(past: Past, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    past.world.ingest(tmp_path / "docs", tmp_path / "folder")
    past.world.ingest(past.world.source, tmp_path / "prefix")
    folder, prefix = past.world.digests(tmp_path / "folder", tmp_path / "prefix")
    assert past.world.xcom(FIRST, "index")["digest"] == folder == prefix


def test_new_documents_are_waited_for_and_a_recall_under_the_floor_releases_nothing(past: Past, tmp_path: Path) -> None:
    world, started = past.world, len(past.world.kubeflow.runs())
    asked = squad(tmp_path / "worse.json", (("a.md", "When does the crane stop?"), ("nowhere.md", "Where is it?")))
    world.rows(OLDER)
    log, waited = "", False
    with world.dags_test(WORSE, {}, QUARRY_AIRFLOW_QUESTIONS=str(asked)) as (process, lines):
        for line in lines:
            log += line
            if "UP_FOR_RESCHEDULE" in line and not waited:
                world.put("c.txt", "Another pile.")
                waited = True
        assert process.wait() == 1, log[-5000:]
    assert waited, "it did not wait for the source to change"
    assert "recall 0.5 of 2 questions is under the floor 0.95: no release is triggered. Not found: nowhere.md" in log
    found = world.states(WORSE)
    assert {task: state for task, (state, _) in found.items()} == states(evaluate="failed", release="upstream_failed", record="upstream_failed")
    assert found["evaluate"][1] == 1, "another try would end the same"
    assert (world.xcom(WORSE, "index")["added"], world.xcom(WORSE, "index")["encoded"]) == (1, 1)
    assert len(world.kubeflow.runs()) == started


def test_a_source_that_does_not_answer_fails_the_run_after_its_retries_and_changes_nothing(past: Past) -> None:
    world, home = past.world, Path(past.world.environment["QUARRY_HOME"])
    before = world.digests(home)
    with world.dags_test(GONE, QUARRY_AIRFLOW_SOURCE="s3://nowhere/docs", QUARRY_AIRFLOW_RETRIES="1") as (process, lines):
        log = "".join(lines)
        assert process.wait() == 1, log[-5000:]
    assert "not ingested: s3://nowhere/docs cannot be listed: NoSuchBucket" in log
    assert world.states(GONE)["collect"] == ("failed", 2)
    assert {state for state, _ in world.states(GONE).values()} == {"failed", "upstream_failed"}
    assert world.digests(home) == before
