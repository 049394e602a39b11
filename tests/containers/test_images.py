"""What is in the images, and what is not."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import CLONE

from .engine import TAG, Engine

MB_OVER_BASE = {"gateway": 250, "reader": 500, "retriever": 500, "ingestion": 550}
NAMES = sorted(MB_OVER_BASE)
CONTEXT_MB = 25
BASE_READER = Path("pipelines/training/models/base-reader/weights.safetensors")  # what training starts from, 21 MB of the context
# In the image: every file's name under /app, and which packages are installed.
CONTENT = """
import importlib.metadata, json, os
files = [os.path.join(folder, name) for folder, _, names in os.walk("/app") for name in names]
print(json.dumps({"files": files, "packages": sorted(d.name.lower() for d in importlib.metadata.distributions(path=["/app"]))}))
"""
BUILDING = {"pip", "uv", "setuptools", "wheel", "hatchling", "cmake", "ninja", "cython"}
TESTING = {"pytest", "ruff", "mypy", "hypothesis", "onnx", "moto"}
TRAINING = {"torch", "transformers", "tensorflow", "mlflow"}


@pytest.fixture(scope="module", params=NAMES)
def image(request: pytest.FixtureRequest, engine: Engine, sizes: dict[str, float]) -> str:
    """Each in turn; `sizes` because they must be there."""
    return str(request.param)


def content(engine: Engine, name: str) -> dict[str, Any]:
    return dict(json.loads(engine.podman("run", "--rm", "--read-only", "--network=none", "--entrypoint=python3", f"quarry/{name}:{TAG}", "-c", CONTENT)))


def test_an_image_is_small(image: str, sizes: dict[str, float]) -> None:
    assert 10 < sizes[f"quarry/{image}:{TAG}"] <= MB_OVER_BASE[image]


def test_an_image_holds_what_serving_needs_and_nothing_that_builds_tests_or_trains(engine: Engine, image: str) -> None:
    found = content(engine, image)
    packages = set(found["packages"])
    assert {"quarry-contract", f"quarry-{image}"} <= packages
    assert not packages & (BUILDING | TESTING | TRAINING)
    models = [file for file in found["files"] if file.endswith((".onnx", ".safetensors", ".pth")) and "/onnxruntime/datasets/" not in file]
    assert models == [], "they come when a pod starts"
    assert any(file.endswith(".pyc") for file in found["files"]), "nothing can be compiled where nothing can be written"


def test_kubeflows_executor_runs_where_a_step_of_a_pipeline_is(engine: Engine, sizes: dict[str, float]) -> None:
    command = ["--env=_KFP_RUNTIME=true", "--entrypoint=python3", f"quarry/ingestion:{TAG}", "-c", "import kfp.dsl.executor_main"]
    engine.podman("run", "--rm", "--read-only", "--network=none", *command)


def test_an_image_runs_as_a_number_without_a_shell_and_says_what_it_is(engine: Engine, image: str) -> None:
    made = engine.image(image)
    config = made["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["python3", "-m", f"quarry_{image}"]
    assert config.get("Cmd") in (None, [])
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert (labels["title"], labels["licenses"], labels["version"]) == (f"quarry-{image}", "Apache-2.0", "0.1.0")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CLONE, capture_output=True, text=True, check=True).stdout.strip()
    assert labels["revision"] == head
    assert labels["description"]


def test_an_image_does_not_say_where_its_packages_came_from(engine: Engine, image: str) -> None:
    told = json.dumps([engine.image(image)[name] for name in ("Config", "History")])
    assert "/run/secrets" not in told
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "SSL_CERT_FILE"):
        assert name not in told
        assert not os.environ.get(name) or os.environ[name] not in told


def test_the_list_of_what_is_in_an_image_names_its_packages(engine: Engine, sizes: dict[str, float], tmp_path: Path) -> None:
    """By syft, without the internet."""
    archive, listed = tmp_path / "image.tar", tmp_path / "reader.spdx.json"
    engine.run("buildah", "push", "--quiet", f"localhost/quarry/reader:{TAG}", f"docker-archive:{archive}")
    command = [str(CLONE / "tests/.venv/bin/syft"), "scan", f"docker-archive:{archive}", "--quiet", "--output", f"spdx-json={listed}"]
    engine.run("env", "SYFT_CHECK_FOR_APP_UPDATE=false", *command)
    names = {package["name"] for package in json.loads(listed.read_text())["packages"]}
    assert {name.replace("_", "-") for name in content(engine, "reader")["packages"]} <= {name.lower().replace("_", "-") for name in names}


def test_the_context_is_our_sources_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    """Copied whole into an empty image."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    engine.run("buildah", "build", "--quiet", "--isolation=chroot", "--file", str(dockerfile), "--tag", "context", str(CLONE))
    root = Path(engine.podman("image", "mount", "localhost/context"))
    try:
        files = {path.relative_to(root): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    finally:
        engine.podman("image", "umount", "localhost/context")
    assert Path("services/gateway/src/quarry_gateway/app.py") in files
    assert sum(files.values()) < CONTEXT_MB * 1e6
    assert files.pop(BASE_READER) > 1e6
    files.pop(BASE_READER.with_name("calibration.json"))
    assert {path.parts[0] for path in files} == {"services", "pipelines"}
    assert not [path for path in files if {".venv", "tests", "models", "data", "__pycache__", "bench"} & set(path.parts)]
