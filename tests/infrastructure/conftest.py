"""Every environment lives once, in a moto of its own: applied, planned again, changed, destroyed; beside that all are planned on an empty account.

The provider waits a minute and more for a database to come, to change and to go, whatever answers: so all wait at once. The protected one waits
longest, since its protection has to be taken away first, and begins first.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import held
import loopback
from changes import OPENED, PROTECTED, VARIABLES, Touched
from runner import ENVIRONMENTS, SOURCE, Missing, Resource, Terraform, mirror, motos, prepare, resources

ASKED = "staging"  # as production, but smaller
Plans = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Applied:
    """An environment in moto."""

    terraform: Terraform
    address: str
    before: dict[str, set[str]]  # what moto held
    again: dict[str, Any]  # a second plan

    @property
    def state(self) -> list[Resource]:
        """What there is."""
        return resources(self.again["prior_state"])

    def client(self, service: str) -> Any:
        """boto3 on what moto holds."""
        return held.client(self.address, service)


@dataclass(frozen=True)
class Destroyed:
    """What is left: in Terraform's state, and in moto."""

    state: str
    holds: dict[str, set[str]]


@dataclass(frozen=True)
class Life:
    """What is done to an environment, one after the other."""

    pool: ThreadPoolExecutor
    applied: "Future[Applied]"
    changed: dict[str, "Future[Any]"]
    destroyed: "Future[Destroyed] | None" = None

    def begin_to_destroy(self) -> "Life":
        """It goes on to its end."""
        return replace(self, destroyed=self.pool.submit(_destroy, self.applied))

    def left(self) -> Destroyed:
        """Once it is destroyed."""
        assert self.destroyed is not None
        return self.destroyed.result()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those that ask the applied environment, with which all begin; last those that wait for what goes on beside the others."""

    def late(item: pytest.Item) -> list[bool]:
        used = getattr(item, "fixturenames", ())
        return ["plans" in used, "ended" in used, "applied" not in used]

    items.sort(key=late)


@pytest.fixture(scope="session")
def terraform_here() -> None:
    """Skips where Terraform or its AWS provider is not installed."""
    try:
        mirror()
    except Missing as reason:
        pytest.skip(str(reason))


def _apply(terraform: Terraform, address: str) -> Applied:
    before = held.held(address)
    terraform.run("apply", "-input=false", "-no-color", "-auto-approve")
    return Applied(terraform, address, before, terraform.plan())


def _canary(terraform: Terraform, folder: Path) -> Touched:
    """What another revision of the API beside the live one would touch."""
    other, live = terraform.copied(folder / "canary"), terraform.live()
    other.edit(f'live = "{live}"', f'live = "{live}", canary = "00000000", percent = 10')
    return other.changes()


def _unknown(terraform: Terraform, folder: Path) -> str:
    """What is said to a revision that api.json has not."""
    other = terraform.copied(folder / "unknown")
    other.edit(f'live = "{terraform.live()}"', 'live = "00000000"')
    only = "-target=module.edge.aws_api_gateway_deployment.this"
    return other.run("plan", "-input=false", "-no-color", "-lock=false", "-refresh=false", only, codes=(1,)).stderr


def _open(terraform: Terraform) -> Touched:
    """Takes the protection away, as docs/aws.md tells."""
    terraform.edit(*OPENED)
    return terraform.touched("apply", "-auto-approve")


def _destroy(applied: "Future[Applied]") -> Destroyed:
    made = applied.result()
    fresh = [] if made.terraform.name == PROTECTED else ["-refresh=false"]  # of the others all was read anew for the second plan, and none was changed since
    made.terraform.run("destroy", "-input=false", "-no-color", "-auto-approve", *fresh)
    return Destroyed(made.terraform.run("state", "list").stdout, held.held(made.address))


def _life(terraform: Terraform, address: str, folder: Path) -> Life:
    pool, name = ThreadPoolExecutor(1), terraform.name
    applied = pool.submit(_apply, terraform, address)
    changed: dict[str, Future[Any]] = {"variables": pool.submit(terraform.changes, *VARIABLES[name])} if VARIABLES[name] else {}
    if name == ASKED:
        changed |= {"canary": pool.submit(_canary, terraform, folder), "unknown": pool.submit(_unknown, terraform, folder)}
    if name == PROTECTED:
        changed["opened"] = pool.submit(_open, terraform)
    life = Life(pool, applied, changed)
    return life if name == ASKED else life.begin_to_destroy()


@pytest.fixture(scope="session")
def accounts(terraform_here: None) -> Iterator[dict[str, str]]:
    """A moto for each environment, and one to plan on."""
    names = (*ENVIRONMENTS, "")
    with tempfile.TemporaryDirectory() as folder, motos(Path(folder) / "moto.log", len(names)) as addresses:
        yield dict(zip(names, addresses, strict=True))


@pytest.fixture(scope="session")
def initialised(accounts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """One from which all environments have their provider and modules."""
    return prepare(tmp_path_factory.mktemp("initialised") / "copy", ASKED, accounts[""], applied=False)


@pytest.fixture(scope="session")
def lives(accounts: dict[str, str], initialised: Terraform) -> Iterator[dict[str, Life]]:
    """All environments, from an empty account on."""
    with tempfile.TemporaryDirectory() as at:
        folder, begun = Path(at), {}
        for name in sorted(ENVIRONMENTS, key=lambda name: name != PROTECTED):
            terraform = prepare(folder / name, name, accounts[name], applied=True, like=initialised)
            if name != ASKED:
                (terraform.copy / loopback.FIREWALL).write_text(loopback.one_rule((SOURCE / "modules/edge/firewall.tf").read_text()))
            begun[name] = _life(terraform, accounts[name], folder)
        yield begun
        for life in begun.values():
            life.pool.shutdown(cancel_futures=True)  # before moto ends


def _plan(folder: Path, address: str, like: Terraform) -> Plans:
    return {name: prepare(folder / name, name, address, applied=False, like=like, patient=True).plan() for name in ENVIRONMENTS}


@pytest.fixture(scope="session")
def planning(lives: dict[str, Life], accounts: dict[str, str], initialised: Terraform) -> Iterator["Future[Plans]"]:
    """Every environment is planned on an empty account, while the provider waits for the applied ones."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        yield pool.submit(_plan, Path(folder), accounts[""], initialised)


@pytest.fixture(scope="session")
def applied(lives: dict[str, Life], planning: "Future[Plans]") -> Applied:
    """The environment that is asked, once it is applied."""
    return lives[ASKED].applied.result()


@pytest.fixture(scope="session")
def ended(lives: dict[str, Life]) -> dict[str, Life]:
    """All environments up to their end, since none is asked any more."""
    return {**lives, ASKED: lives[ASKED].begin_to_destroy()}


@pytest.fixture(scope="session")
def plans(planning: "Future[Plans]") -> Plans:
    """What Terraform would make of each environment, everything in it, on an empty account."""
    return planning.result()
