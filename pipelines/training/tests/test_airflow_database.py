"""Airflow's database as it is made in MLflow's pod, on a real PostgreSQL, by a user who may what RDS's may."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from .servers import administer

PASSWORD, OTHER = "it's: a %s/\\ password", "another"


def make(database: dict[str, str], given: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "quarry_training.airflow_database"]
    done = subprocess.run(command, env={**os.environ, **database}, input=given, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def secret(password: str) -> str:
    return json.dumps({"username": "airflow", "password": password, "host": "elsewhere", "fernet_key": "x"})


@pytest.fixture
def instance(postgresql: dict[str, str]) -> Iterator[dict[str, str]]:
    """With a user who makes roles and databases and is no superuser; `airflow` has to give a password."""
    file = Path(administer(postgresql, "SHOW hba_file"))
    before = file.read_text()
    file.write_text(f"local all airflow scram-sha-256\n{before}")
    administer(postgresql, "CREATE ROLE owner LOGIN CREATEROLE CREATEDB", "SELECT pg_reload_conf()")
    yield {**postgresql, "PGUSER": "owner"}
    file.write_text(before)
    administer(postgresql, "DROP DATABASE IF EXISTS airflow", "DROP ROLE IF EXISTS airflow", "DROP ROLE owner", "SELECT pg_reload_conf()")


def asked(database: dict[str, str], password: str) -> tuple[str, str]:
    """As Airflow connects: who owns the database, after a table was made in it and taken away."""
    with contextlib.closing(psycopg2.connect(host=database["PGHOST"], user="airflow", dbname="airflow", password=password)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE dag (id int)")
            cursor.execute("SELECT pg_get_userbyid(datdba), current_user FROM pg_database WHERE datname = current_database()")
            owner, user = cursor.fetchone()
        connection.rollback()
    return owner, user


def test_airflow_owns_a_database_and_gets_the_secrets_new_password(instance: dict[str, str]) -> None:
    assert make(instance, secret(PASSWORD)) == (0, "airflow may use the database airflow\n", "")
    assert asked(instance, PASSWORD) == ("airflow", "airflow")
    assert make(instance, secret(OTHER))[0] == 0
    assert asked(instance, OTHER) == ("airflow", "airflow")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        asked(instance, PASSWORD)
    assert administer(instance, "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'airflow'") == "False"


@pytest.mark.parametrize("given", ["", "[]", "{}", '{"username": "airflow"}'])
def test_what_is_no_secret_is_refused(given: str) -> None:
    assert make({}, given) == (2, "", "on stdin there is no secret with username and password\n")


def test_without_postgresql_it_says_so(postgresql: dict[str, str]) -> None:
    status, out, err = make({**postgresql, "PGPORT": "1"}, secret(PASSWORD))
    assert (status, out) == (1, "") and "failed" in err and "Traceback" not in err
