"""MLflow's liveness probe, as the kubelet runs it: a process with the server's own environment, beside a real MLflow on a real PostgreSQL."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .servers import administer

PASSWORD, ROTATED = "st@rt:/%+ed with", "another"


def probe(database: Mapping[str, str], server: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "quarry_training.mlflow_alive", f"{server}/health"]
    done = subprocess.run(command, env={**os.environ, **database}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def started_with(postgresql: dict[str, str]) -> Iterator[dict[str, str]]:
    """What MLflow was started with: a user who has to give a password, where the others have not."""
    file = Path(administer(postgresql, "SHOW hba_file"))
    before = file.read_text()
    file.write_text(f"local all mlflow scram-sha-256\n{before}")
    administer(postgresql, f"CREATE ROLE mlflow LOGIN PASSWORD '{PASSWORD}'", "SELECT pg_reload_conf()")
    yield {**postgresql, "PGUSER": "mlflow", "PGPASSWORD": PASSWORD, "PGSSLMODE": "require"}
    file.write_text(before)
    administer(postgresql, "DROP ROLE mlflow", "SELECT pg_reload_conf()")


def test_it_is_restarted_once_the_password_is_another_and_not_with_the_new_one(
    postgresql: dict[str, str], started_with: dict[str, str], mlflow_server_on_postgresql: str
) -> None:
    assert probe(started_with, mlflow_server_on_postgresql) == (0, "")
    administer(postgresql, f"ALTER ROLE mlflow PASSWORD '{ROTATED}'")
    assert probe(started_with, mlflow_server_on_postgresql) == (1, "the database refuses the password that MLflow was started with\n")
    assert probe(started_with | {"PGPASSWORD": ROTATED}, mlflow_server_on_postgresql) == (0, "")


def test_a_database_that_is_away_or_full_is_no_reason_and_a_server_that_is_silent_is(
    postgresql: dict[str, str], started_with: dict[str, str], mlflow_server_on_postgresql: str
) -> None:
    assert probe(started_with | {"PGPORT": "1"}, mlflow_server_on_postgresql) == (0, "")
    administer(postgresql, "ALTER ROLE mlflow CONNECTION LIMIT 0")
    assert probe(started_with, mlflow_server_on_postgresql) == (0, "")
    status, said = probe(started_with, "http://127.0.0.1:1")
    assert status == 1 and said.startswith("http://127.0.0.1:1/health does not answer: ") and "Traceback" not in said
