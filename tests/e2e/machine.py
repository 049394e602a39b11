"""A state folder with tiny models, and the real services on it as processes."""

import atexit
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quarry_contract.manifests import MODEL_MANIFEST, ModelManifest, read_manifest
from quarry_contract.releases import bind, index_of

from .conftest import CLONE, free_port

WORDS = [f"word{i}" for i in range(24)]
QUESTIONS = ["which word3 is it", "what is word7 of", "where is word11", "who is word19 for"]
SERVICE = re.compile(r"\0-m\0quarry_(\w+)")
NEEDED = [*(f"services/{name}" for name in ("contract", "runtime", "retriever", "reader", "gateway")), "pipelines/ingestion"]
ARTEFACTS = """
import sys
from pathlib import Path
from quarry_runtime import tiny
home, words = Path(sys.argv[1]), sys.argv[2:]
for version, sign in ((1, 1), (2, -1)):
    tiny.reader(home / f"models/reader/{version}", {word: 6 + sign * i / 10 for i, word in enumerate(words)}, ["which", "what", "is"])
    tiny.encoder(home / f"models/retriever/{version}", [*words, "which", "what", "is"], seed=version)
tiny.reader(home / "models/reader/3", {"word1": 5.0})
"""


@dataclass(frozen=True)
class Machine:
    """A state folder with releases `a` (reader 1, retriever 1), `b` (reader 2, retriever 1), `c` (reader 1, retriever 2), `broken` (reader 3 is no model)."""

    home: Path
    environment: dict[str, str]
    ids: dict[str, str]

    def stack(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """local/stack.py to its end."""
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def command(self, *arguments: str) -> list[str]:
        return [str(CLONE / "services/contract/.venv/bin/python"), str(CLONE / "local/stack.py"), *arguments]

    def make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", *arguments], cwd=CLONE, env=self.environment, capture_output=True, text=True, check=False, timeout=120)

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.environment['QUARRY_GATEWAY_PORT']}"

    def ask(self, question: str) -> tuple[str, dict[str, Any]]:
        """The reply's release header and its body without the request id."""
        body = json.dumps({"question": question, "retrieval": "dense", "min_confidence": 0}).encode()
        request = urllib.request.Request(self.gateway + "/v1/answers", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            found = dict(json.load(reply))
            return str(reply.headers["X-Quarry-Release"]), {k: v for k, v in found.items() if k != "request_id"}

    def answers(self) -> dict[str, dict[str, Any]]:
        """Of all questions, now."""
        return {question: self.ask(question)[1] for question in QUESTIONS}

    def live(self) -> str:
        with urllib.request.urlopen(self.gateway + "/v1/releases", timeout=10) as reply:
            state = json.load(reply)
        assert (state["refused"], state["draining"]) == (None, [])
        return str(state["live"])

    def running(self) -> list[str]:
        """Names of what runs, by the kernel's word: every process that was started with this state folder."""
        found = [path for path in Path("/proc").glob("[0-9]*/environ") if f"QUARRY_HOME={self.home}\0".encode() in _bytes(path)]
        commands = [_bytes(path.with_name("cmdline")).decode() for path in found]
        return sorted(named.group(1) if (named := SERVICE.search(c)) else c for c in commands if c)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def run_python(project: str, *arguments: str) -> str:
    """In a project's environment; what it prints."""
    done = subprocess.run([str(CLONE / project / ".venv/bin/python"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ports() -> dict[str, str]:
    """Free ports for the whole stack."""
    return {f"QUARRY_{name}_PORT": str(free_port()) for name in ("MLFLOW", "READER", "RETRIEVER", "INGESTION", "GATEWAY")}


def environment_of(home: Path) -> dict[str, str]:
    """For every process of a machine."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "QUARRY_"))}
    return {**outer, **ports(), "QUARRY_HOME": str(home)}


def make_models(home: Path) -> None:
    """Readers 1 to 3 and retrievers 1 and 2, a copy of each its own."""
    shutil.copytree(_made() / "models", home / "models")


@cache
def _made() -> Path:
    """They are made once in a session."""
    home = Path(tempfile.mkdtemp(prefix="quarry-models-"))
    atexit.register(shutil.rmtree, home)
    run_python("services/reader", "-c", ARTEFACTS, str(home), *WORDS)
    return home


def ingest(home: Path, *what: str, version: int = 1) -> dict[str, Any]:
    """Run ingestion for retriever `version`; its report."""
    done = run_python("pipelines/ingestion", "-m", "quarry_ingestion", *what, "--home", str(home), "--model-dir", str(home / f"models/retriever/{version}"))
    return dict(json.loads(done.splitlines()[-1]))


def bind_parts(home: Path, reader: int, retriever: int) -> str:
    """A release of these versions; its id."""
    digest = read_manifest(home / f"models/retriever/{retriever}" / MODEL_MANIFEST, ModelManifest).digest
    generation = index_of(home, digest)
    assert generation is not None
    return bind(home, f"models:/reader/{reader}", f"models:/retriever/{retriever}", generation, "2026-01-01T00:00:00+00:00").release_id
