"""Two environments are applied from the beginning of the session, while the tests that only plan run: one to be asked and changed, one to be destroyed.

The provider waits a minute and more for a database and a cluster to come and to go, whatever answers: so both wait at once, and others work meanwhile.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from runner import ENVIRONMENTS, REGION, Missing, Resource, Terraform, mirror, moto, prepare

ASKED = "staging"  # as production, but it may be destroyed
DESTROYED = "dev"


@dataclass(frozen=True)
class Applied:
    """An environment in moto."""

    terraform: Terraform
    address: str
    state: list[Resource]

    def client(self, service: str) -> Any:
        """boto3 on what moto holds."""
        return boto3.client(service, endpoint_url=self.address, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need an applied environment last, and what is destroyed last of all, so that the others run meanwhile."""
    items.sort(key=lambda item: [name in getattr(item, "fixturenames", ()) for name in ("destroyed", "applied")])


@pytest.fixture(scope="session")
def terraform_here() -> None:
    """Skips where Terraform or its AWS provider is not installed."""
    try:
        mirror()
    except Missing as reason:
        pytest.skip(str(reason))


@dataclass(frozen=True)
class Applying:
    """The two environments under way."""

    asked: "Future[Applied]"
    destroyed: "Future[Applied]"


def _apply(folder: Path, name: str, address: str) -> Applied:
    terraform = prepare(folder, name, address, applied=True)
    terraform.run("apply", "-input=false", "-no-color", "-auto-approve")
    return Applied(terraform, address, terraform.state())


def _destroy(folder: Path, name: str, address: str) -> Applied:
    made = _apply(folder, name, address)
    made.terraform.run("destroy", "-input=false", "-no-color", "-auto-approve")
    return made


@pytest.fixture(scope="session")
def applying(terraform_here: None) -> Iterator[Applying]:
    """Both, each in a moto of its own."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        with moto(folder / "asked.log") as one, moto(folder / "destroyed.log") as other:
            yield Applying(pool.submit(_apply, folder / "asked", ASKED, one), pool.submit(_destroy, folder / "destroyed", DESTROYED, other))
            pool.shutdown()  # before moto ends


@pytest.fixture(scope="session")
def applied(applying: Applying) -> Applied:
    """The environment, once it is applied."""
    return applying.asked.result()


@pytest.fixture(scope="session")
def destroyed(applying: Applying) -> Applied:
    """The other one, once it is destroyed; `state` is what there was."""
    return applying.destroyed.result()


@pytest.fixture(scope="session")
def plans(applying: Applying) -> Iterator[dict[str, dict[str, Any]]]:
    """What Terraform would make of each environment, everything in it, on an empty account; made while the provider waits for the applied ones."""
    with tempfile.TemporaryDirectory() as folder, moto(Path(folder) / "moto.log") as address:
        yield {name: prepare(Path(folder) / name, name, address, applied=False, patient=True).plan() for name in ENVIRONMENTS}
