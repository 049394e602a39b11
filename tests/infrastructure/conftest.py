"""One environment is applied, from the beginning of the session, while the tests that only plan run; then asked, and destroyed."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from runner import ENVIRONMENTS, REGION, Missing, Resource, Terraform, mirror, moto, prepare

APPLIED = "staging"  # as production, but it may be destroyed


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
    """Those that need the applied environment last, so that the others run while it is being applied."""
    items.sort(key=lambda item: "applied" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def terraform_here() -> None:
    """Skips where Terraform or its AWS provider is not installed."""
    try:
        mirror()
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def applying(terraform_here: None) -> Iterator[Future[Applied]]:
    """The environment being applied."""
    with tempfile.TemporaryDirectory() as folder, moto(Path(folder) / "moto.log") as address, ThreadPoolExecutor(1) as pool:

        def apply() -> Applied:
            terraform = prepare(Path(folder) / "copy", APPLIED, address, applied=True)
            terraform.run("apply", "-input=false", "-no-color", "-auto-approve")
            return Applied(terraform, address, terraform.state())

        yield pool.submit(apply)


@pytest.fixture(scope="session")
def applied(applying: "Future[Applied]") -> Applied:
    """The environment, once it is applied."""
    return applying.result()


@pytest.fixture(scope="session")
def plans(applying: "Future[Applied]") -> Iterator[dict[str, dict[str, Any]]]:
    """What Terraform would make of each environment, everything in it, on an empty account."""
    with tempfile.TemporaryDirectory() as folder, moto(Path(folder) / "moto.log") as address:
        yield {name: prepare(Path(folder) / name, name, address, applied=False).plan() for name in ENVIRONMENTS}
