"""Runs the real terraform with the real AWS provider, from a plugin mirror on this machine, against a moto server on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import loopback

CLONE = Path(__file__).resolve().parents[2]
SOURCE = CLONE / "terraform"
ENVIRONMENTS = ("dev", "staging", "production")
ACCOUNT = "123456789012"
REGION = "eu-central-1"
PROVIDER = "*/hashicorp/aws/5.*/*_*/terraform-provider-aws*"  # below a mirror: host, namespace, name, version, platform
# Terraform and provider hold hundreds of MB of schemas for as long as they run: to look through them less often for what is garbage saves processor time.
GARBAGE = {"GOGC": "400", "GOMEMLIMIT": "1000MiB"}
Resource = dict[str, Any]


class Missing(Exception):
    """Why Terraform cannot run here."""


def mirror() -> Path:
    """The folder of provider plugins: QUARRY_TERRAFORM_PLUGINS, else where Terraform and packagers keep them.

    Raises:
        Missing: there is no terraform or no AWS provider 5.
    """
    if shutil.which("terraform") is None:
        raise Missing("terraform is not installed")
    data = [Path.home() / ".local/share", *map(Path, os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":"))]
    usual = [Path.home() / ".terraform.d/plugins", *(folder / "terraform/plugins" for folder in data), *sorted(Path("/opt").glob("*"))]
    told = [Path(os.environ[name]) for name in ("QUARRY_TERRAFORM_PLUGINS", "TF_PLUGIN_CACHE_DIR") if os.environ.get(name)]
    for folder in told + usual:
        if next(folder.glob(PROVIDER), None):
            return folder.resolve()
    raise Missing("no AWS provider 5 for terraform: set QUARRY_TERRAFORM_PLUGINS to a folder that `terraform providers mirror` filled")


# Reads the modules of what Terraform asks for once, then serves every port in a process of its own; all end with standard input.
SERVERS = """
import os, signal, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

for service in sys.argv[2:]:
    create_backend_app(service)
begun = []
for _ in range(int(sys.argv[1])):
    server = make_server('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    print(server.port, flush=True)
    begun.append(os.fork())
    if begun[-1] == 0:
        server.serve_forever()
    server.server_close()
sys.stdin.read()
for process in begun:
    os.kill(process, signal.SIGKILL)
"""
SERVICES = ("apigateway", "cloudwatch", "ec2", "ecr", "eks", "elbv2", "iam", "kms", "logs", "rds", "s3", "secretsmanager", "sns", "sts", "wafv2")


@contextmanager
def moto(log: Path) -> Iterator[str]:
    """A moto server of its own on a free port; its address."""
    with motos(log, 1) as (address,):
        yield address


@contextmanager
def motos(log: Path, number: int) -> Iterator[list[str]]:
    """Several moto servers, none of which knows of the others; their addresses."""
    environment = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    command = [sys.executable, "-c", SERVERS, str(number), *SERVICES]
    with log.open("w") as errors, subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, env=environment, text=True) as process:
        assert process.stdout
        yield [f"http://127.0.0.1:{int(process.stdout.readline())}" for _ in range(number)]


@dataclass(frozen=True)
class Terraform:
    """Terraform on one environment, in a copy of terraform/."""

    copy: Path
    name: str
    environment: dict[str, str]
    patient: bool = False  # gives way to those that are waited for

    @property
    def folder(self) -> Path:
        """The root module."""
        return self.copy / "envs" / self.name

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> "subprocess.CompletedProcess[str]":
        """Run a command; fails with its output unless the exit code is one of `codes`."""
        command = [*(["nice", "-n", "5"] if self.patient else []), "terraform", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode in codes, f"terraform {arguments[0]}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done

    def init(self) -> None:
        """The provider comes from the mirror and is held against the lock file; commands after it need not read its 600 MB for that again."""
        told = replace(self, environment={**self.environment, "TF_CLI_CONFIG_FILE": str(self.copy / "mirror.tfrc")})
        told.run("init", "-input=false", "-no-color", "-lockfile=readonly")

    def plan(self, refresh: bool = True) -> dict[str, Any]:
        """What there would be and what would be changed, as `terraform show -json` says it; without `refresh`, from the state alone."""
        with tempfile.NamedTemporaryFile() as kept:
            self.run("plan", "-input=false", "-no-color", "-lock=false", f"-refresh={str(refresh).lower()}", f"-out={kept.name}")
            return dict(json.loads(self.run("show", "-json", kept.name).stdout))

    def changes(self, *variables: str) -> dict[str, str]:
        """What a plan with these variables (NAME=VALUE) would touch, from the state alone."""
        return self.touched("plan", "-lock=false", "-refresh=false", *(f"-var={v}" for v in variables))

    def touched(self, *arguments: str) -> dict[str, str]:
        """Address -> what a plan or an apply does to it."""
        told = [json.loads(line) for line in self.run(*arguments, "-json", "-input=false").stdout.splitlines()]
        touched = {line["change"]["resource"]["addr"]: line["change"]["action"] for line in told if line["type"] == "planned_change"}
        return {address: action for address, action in touched.items() if action != "read"}

    def edit(self, old: str, new: str) -> None:
        """Change the environment's settings."""
        settings = self.folder / "settings.tf"
        assert old in settings.read_text(), f"settings.tf has no {old!r}"
        settings.write_text(settings.read_text().replace(old, new))

    def live(self) -> str:
        """The live revision of the edge's API, by the settings."""
        return str(re.findall(r'live = "(\w+)"', (self.folder / "settings.tf").read_text())[0])

    def copied(self, to: Path) -> "Terraform":
        """The same with its state, for a plan beside others after a change of its files."""
        shutil.copytree(self.copy, to, symlinks=True)
        return replace(self, copy=to)


def prepare(copy: Path, name: str, address: str, applied: bool, like: Terraform | None = None, patient: bool = False) -> Terraform:
    """A copy of terraform/ with one environment initialised; `applied`: with what apply needs to get on with moto.

    `like`: one that is initialised. Environments have the same modules and provider (test_sources.py), so what init made for it serves here too.
    """
    terraform = uninitialised(copy, name, address, patient)
    root = copy / "envs" / name
    (root / "loopback_override.tf").write_text(loopback.PROVIDER)
    for file, text in loopback.APPLIED.items() if applied else ():
        (copy / file).write_text(text)
    given = re.sub("111122223333", ACCOUNT, (root / "example.tfvars").read_text())
    (root / "terraform.tfvars").write_text(given)
    if like:
        shutil.copytree(like.folder / ".terraform", root / ".terraform", symlinks=True)
    else:
        terraform.init()
    return terraform


def uninitialised(copy: Path, name: str, address: str, patient: bool = False) -> Terraform:
    """A root module in a copy of terraform/, as it is."""
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", "terraform.tfvars"))
    plugin = next(mirror().glob(PROVIDER)).parent
    (copy / "mirror.tfrc").write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror()}"\n  }}\n}}\n')
    (copy / "checked.tfrc").write_text(f'provider_installation {{\n  dev_overrides {{\n    "hashicorp/aws" = "{plugin}"\n  }}\n}}\n')
    given = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))}
    told = {"AWS_ENDPOINT_URL": address, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": str(copy / "checked.tfrc")}
    return Terraform(copy, name, {**given, **told, **GARBAGE}, patient)


def planned(plan: dict[str, Any]) -> dict[str, str]:
    """Address -> what a plan would do to it."""
    actions = {r["address"]: r["change"]["actions"] for r in plan["resource_changes"]}
    return {address: "+".join(what) for address, what in actions.items() if what not in (["no-op"], ["read"])}


def resources(shown: dict[str, Any]) -> list[Resource]:
    """All resources of a plan's outcome, or of the state it began with."""
    found: list[Resource] = []
    modules = [(shown.get("planned_values") or shown.get("values") or {}).get("root_module", {})]
    while modules:
        module = modules.pop()
        found += [{"values": {}, **r} for r in module.get("resources", []) if r["mode"] == "managed"]  # none are known of some in a plan
        modules += module.get("child_modules", [])
    return found
