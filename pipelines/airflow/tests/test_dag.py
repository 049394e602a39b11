"""The DAG's file: it is parsed without error, and without anything heavy."""

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest

from .conftest import DAGS, airflow_environment

# One Airflow for both: importing it is nearly all that parsing costs.
PARSE = """import json, os, sys
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
bag = DagBag(dag_folder=sys.argv[1])
dag = bag.dags.get("quarry_ingest")
edges = sorted([t.task_id, d] for t in dag.tasks for d in t.downstream_task_ids) if dag else []
facts = {t.task_id: [t.retries, t.retry_exponential_backoff, t.max_active_tis_per_dag] for t in dag.tasks} if dag else {}
parsed = sorted({m.partition(".")[0] for m in set(sys.modules) - before})
found = {"errors": list(bag.import_errors.values()), "edges": edges, "facts": facts, "parsed": parsed, "all": sorted(sys.modules)}
os.environ |= json.loads(sys.argv[2])
print(json.dumps(found | {"wrong": list(DagBag(dag_folder=sys.argv[1]).import_errors.values())}))"""
HEAVY = {
    "boto3",
    "botocore",
    "faiss",
    "kfp",
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyspark",
    "quarry_ingestion",
    "quarry_retriever",
    "torch",
    "transformers",
}
SET = {"QUARRY_HOME": "/home", "QUARRY_AIRFLOW_SOURCE": "s3://b/p", "QUARRY_AIRFLOW_MODEL_DIR": "/m"}
WRONG = {"QUARRY_AIRFLOW_RECALL_FLOOR": "95"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the file gives with the right settings, and its errors with WRONG."""
    command = [sys.executable, "-W", "ignore", "-c", PARSE, DAGS, json.dumps(WRONG)]
    environment = airflow_environment(tmp_path_factory.mktemp("parsing")) | SET
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_it_is_parsed_without_error_and_imports_nothing_heavy(found: dict[str, Any]) -> None:
    assert found["errors"] == []
    order = ["collect", "index", "evaluate", "release", "record"]
    assert set(order) == set(found["facts"])
    assert all([a, b] in found["edges"] for a, b in itertools.pairwise(order))
    assert all(retries == 3 and backoff == 2 for retries, backoff, _ in found["facts"].values())
    assert {found["facts"][name][2] for name in ("index", "evaluate", "release")} == {1}
    assert not HEAVY & {name.partition(".")[0] for name in found["all"]}
    brought = {name for name in found["parsed"] if not name.startswith("unusual_prefix_")}  # as Airflow calls a DAG's file
    assert brought == {"airflow", "packaging", "quarry_airflow"}


def test_a_wrong_setting_is_a_broken_dag_that_says_which(found: dict[str, Any]) -> None:
    [error] = found["wrong"]
    assert "QUARRY_AIRFLOW_RECALL_FLOOR must be a number from 0 to 1, not '95'" in error
