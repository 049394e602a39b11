"""A moto server, a tiny retriever and a migrated Airflow database, once per run; a world of its own per module.

Commands run in the environments of pipelines/ingestion, services/retriever and pipelines/kubeflow, as they do in earnest.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DAGS = Path(__file__).parents[1] / "dags"
AIRFLOW = Path(sys.executable).parent / "airflow"
INGESTION = ROOT / "pipelines/ingestion/.venv/bin/python"
RETRIEVER = ROOT / "services/retriever/.venv/bin/python"
KUBEFLOW = ROOT / "pipelines/kubeflow/.venv/bin/python"
MOTO = """from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(f"http://127.0.0.1:{server.port}", flush=True)
server.serve_forever()"""
TINY = """import sys
from pathlib import Path
from quarry_runtime import tiny
tiny.encoder(Path(sys.argv[1]), ["crane", "pile", "wall", "wind"])"""
DIGESTS = """import json, sys
from pathlib import Path
from quarry_contract.index_store import INDEX_DATABASE, connect, content_digest
print(json.dumps([content_digest(connect(path)) for home in sys.argv[1:] for path in Path(home, "index").glob(f"*/{INDEX_DATABASE}")]))"""
BUCKET = "papers"
FILES = {"a.md": "# Cranes\n\nThe crane stops in the wind.", "sub/b.txt": "The pile stands by the wall.", "bad.pdf": "%PDF-1.7 broken"}
QUESTIONS = (("a.md", "When does the crane stop?"), ("sub/b.txt", "Where does the pile stand?"))


def missing_environments() -> list[str]:
    return [str(path.relative_to(ROOT).parents[2]) for path in (INGESTION, RETRIEVER, KUBEFLOW) if not path.exists()]


def pytest_sessionstart() -> None:
    if missing := missing_environments():
        pytest.exit(f"the DAG calls commands of other environments; make them: make envs P='{' '.join(missing)}'", 2)


def end(process: "subprocess.Popen[Any]") -> None:
    """Whether it wants to or not: Airflow's scheduler sometimes does not hear SIGTERM, and a suite must end."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(*command: str | Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that prints its address first; ended afterwards."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    end(process)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    for _, address in serve(INGESTION, "-c", MOTO):
        yield address


@dataclass(frozen=True)
class Kubeflow:
    process: "subprocess.Popen[str]"
    url: str

    def runs(self, fail: dict[str, int] | None = None) -> list[dict[str, Any]]:
        """What was started so far; `fail` says with which status it answers which path from now on."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fail or {}) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def kubeflow_server() -> Iterator[Kubeflow]:
    """One that has run nothing yet."""
    for process, address in serve(KUBEFLOW, Path(__file__).with_name("kubeflow_server.py"), ROOT / "pipelines/kubeflow/tests"):
        yield Kubeflow(process, address)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    subprocess.run([INGESTION, "-c", TINY, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's, migrated and empty."""
    home = tmp_path_factory.mktemp("airflow")
    subprocess.run([AIRFLOW, "db", "migrate"], check=True, env=airflow_environment(home), capture_output=True)
    return home / "airflow.db"


def airflow_environment(home: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "QUARRY_", "AWS_"))}
    core = {"LOAD_EXAMPLES": "False", "DAGS_FOLDER": str(DAGS)}
    return clean | {"AIRFLOW_HOME": str(home), "OMP_NUM_THREADS": "1"} | {f"AIRFLOW__CORE__{k}": v for k, v in core.items()}


@dataclass
class World:
    """One Airflow, one bucket prefix, one QUARRY_HOME."""

    folder: Path
    moto: str
    kubeflow: Kubeflow
    prefix: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def put(self, name: str, text: str) -> None:
        headers = {"Content-Type": "text/plain", "Authorization": "AWS test:test"}  # which moto does not check, but wants
        request = urllib.request.Request(f"{self.moto}/{BUCKET}/{self.prefix}/{name}", text.encode(), headers, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    @contextmanager
    def dags_test(self, logical_date: str, conf: dict[str, Any] | None = None, **more: str) -> Iterator[tuple["subprocess.Popen[str]", Iterator[str]]]:
        """`airflow dags test`, and the lines of its log as they come."""
        command = [AIRFLOW, "dags", "test", "quarry_ingest", logical_date, "--conf", json.dumps({"wait": False} if conf is None else conf)]
        with subprocess.Popen(command, env=self.environment | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            try:
                yield process, iter(process.stdout)
            finally:
                end(process)

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Of Airflow's database."""
        with closing(sqlite3.connect(self.folder / "airflow/airflow.db")) as connection, connection:
            return connection.execute(query, arguments).fetchall()

    def states(self, day: str) -> dict[str, tuple[str, int]]:
        """State and tries of the tasks of a run."""
        query = "SELECT task_id, t.state, try_number FROM task_instance t JOIN dag_run d USING (run_id) WHERE d.logical_date LIKE ?"
        return {name: (state, tries) for name, state, tries in self.rows(query, f"%{day}%")}

    def xcom(self, day: str, task: str) -> Any:
        [(value,)] = self.rows(
            "SELECT value FROM xcom JOIN dag_run d USING (run_id) WHERE logical_date LIKE ? AND task_id = ? AND key = 'return_value'", f"%{day}%", task
        )
        found = json.loads(value)
        return json.loads(found) if isinstance(found, str) else found

    def digests(self, *homes: Path) -> list[str]:
        """Of what the one generation of each QUARRY_HOME holds."""
        command = [INGESTION, "-c", DIGESTS, *homes]
        return list(json.loads(subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout))

    def ingest(self, source: str | Path, home: Path) -> None:
        """By the plain command."""
        model = self.environment["QUARRY_AIRFLOW_MODEL_DIR"]
        command = [INGESTION, "-m", "quarry_ingestion", source, "--home", home, "--model-dir", model]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)


def squad(path: Path, asked: tuple[tuple[str, str], ...]) -> Path:
    answer = [{"text": "x", "answer_start": 0}]
    path.write_text(json.dumps({"data": [{"title": t, "paragraphs": [{"context": "x", "qas": [{"question": q, "answers": answer}]}]} for t, q in asked]}))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, moto: str, kubeflow_server: Kubeflow, model: Path, database: Path) -> World:
    """With FILES in its prefix and questions that find them."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "airflow").mkdir()
    shutil.copy(database, folder / "airflow/airflow.db")
    made = World(folder, moto, kubeflow_server, folder.name)
    told = {
        "SOURCE": made.source,
        "MODEL_DIR": str(model),
        "QUESTIONS": str(squad(folder / "questions.json", QUESTIONS)),
        "INGESTION": f"{INGESTION} -m quarry_ingestion",
        "RECALL": f"{RETRIEVER} -m quarry_retriever.recall",
        "KUBEFLOW": f"{KUBEFLOW} -m quarry_kubeflow",
        "KFP_HOST": kubeflow_server.url,
        "PIPELINE": "publish-retriever",
        "INPUTS": "mlflow_uri=http://mlflow:5000",
        "RETRY_DELAY_SEC": "0",
        "POKE_SEC": "0",
        "DEADLINE_SEC": "0",  # `dags test` does not take a DAG with one: apache/airflow#73428
    }
    aws = {"ENDPOINT_URL": moto, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    made.environment = airflow_environment(folder / "airflow") | {"QUARRY_HOME": str(folder / "home")}
    made.environment |= {f"QUARRY_AIRFLOW_{k}": v for k, v in told.items()} | {f"AWS_{k}": v for k, v in aws.items()}
    urllib.request.urlopen(urllib.request.Request(f"{moto}/{BUCKET}", method="PUT"), timeout=10).close()
    for name, text in FILES.items():
        made.put(name, text)
    return made
