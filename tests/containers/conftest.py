"""One store, one build of the images and one stack for all tests of a session."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from e2e.conftest import CLONE

from .engine import Engine, missing
from .world import BUCKET, World, aws, make_network, make_release, python, start_s3

ENVIRONMENTS = [*(f"services/{name}" for name in ("contract", "reader")), "pipelines/ingestion"]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if why := missing():
        pytest.skip(why)
    subprocess.run(["make", "envs", f"P={' '.join(ENVIRONMENTS)}"], cwd=CLONE, check=True, capture_output=True, timeout=1800)
    made = Engine.at(tmp_path_factory.mktemp("containers"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def sizes(engine: Engine) -> dict[str, float]:
    """The images are built; megabytes of each over its base."""
    return engine.build_all()


@pytest.fixture(scope="session")
def world(engine: Engine, sizes: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A release pushed to S3, and its pods, ready; `sizes` because the images must be there."""
    folder = tmp_path_factory.mktemp("world")
    release = make_release(folder)
    s3, endpoint = start_s3(make_network(engine))
    environment = {**os.environ, **aws(endpoint)}
    made = World(engine, folder, release, endpoint)
    bucket = [str(CLONE / "k8s/bucket.py"), BUCKET]
    push = ["-m", "quarry_ingestion.artefacts", "push", release, "--home", str(folder), "--to", made.bucket]
    try:
        for command in (bucket, bucket, push):  # as k8s/cluster.sh does, again and again
            subprocess.run([python("pipelines/ingestion"), *command], env=environment, check=True, capture_output=True, timeout=120)
        made.play()
        made.wait_ready()
        yield made
    finally:
        engine.podman("pod", "rm", "--force", "--time=0", "--all", check=False)
        s3.terminate()
        s3.wait()
