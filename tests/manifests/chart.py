"""The chart, rendered by the real helm, and what runs in it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .schemas import Manifest

CLONE = Path(__file__).parents[2]
CHART = CLONE / "helm" / "quarry"
ACCOUNT = Path(__file__).with_name("account.yaml")
GOLDEN = CLONE / "services/contract/src/quarry_contract/golden/release_manifest.json"
HELM = os.environ.get("QUARRY_HELM") or shutil.which("helm") or str(CLONE / ".tools/helm")
GO = {"GOGC": "off", "GOMAXPROCS": "1"}  # a program of Go that lives a tenth of a second need not collect its garbage: a fifth of its processor time
LIVE, CANDIDATE, PREVIOUS = "f8d74ec1693a", "0c0ffee00c0f", "beefbeefbeef"  # the first is the golden release's id


class HelmError(Exception):
    """helm's own words."""


def release(identity: str = LIVE) -> str:
    """A release.json, as text; of another release than the golden one, with another reader."""
    data = json.loads(GOLDEN.read_text())
    if identity != data["release_id"]:
        data |= {"release_id": identity, "reader": "models:/reader/2", "reader_digest": "9" * 64}
    return json.dumps(data)


def values(candidate: bool = False, **more: Any) -> dict[str, Any]:
    """The least that renders, or with releases beside the live one; and `more`."""
    releases: dict[str, Any] = {"live": {"manifest": release()}}
    if candidate:
        releases |= {"candidate": {"manifest": release(CANDIDATE), "share": 0.1, "mirror": 0.5}, "previous": {"manifest": release(PREVIOUS)}}
    return {"releases": releases, "artefacts": {"prefix": "s3://bucket/releases"}, **more}


def render(given: dict[str, Any], files: Sequence[Path] = (), chart: Path = CHART) -> list[Manifest]:
    """What helm makes of the chart.

    Raises:
        HelmError: it refuses.
    """
    template = _template if chart == CHART else _template.__wrapped__  # a copy may change
    text = template(json.dumps(given), tuple((file, file.read_text()) for file in files), chart)
    return [m for m in yaml.load_all(text, Loader=yaml.CSafeLoader) if m]


@cache  # many tests ask for the same
def _template(given: str, files: tuple[tuple[Path, str], ...], chart: Path) -> str:
    """What helm prints; the files' texts are there to tell one call from another."""
    command = [HELM, "template", "quarry", str(chart), "--namespace", "quarry"]
    for file, _ in files:
        command += ["--values", str(file)]
    done = subprocess.run([*command, "--values", "-"], input=given, capture_output=True, text=True, timeout=60, env=os.environ | GO)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


@dataclass(frozen=True)
class Workload:
    """Something that runs pods."""

    owner: Manifest
    labels: dict[str, str]
    pod: dict[str, Any]
    serves: bool  # for as long as it lives, as opposed to a job or a test

    @property
    def name(self) -> str:
        """Kind and name of the owner."""
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def component(self) -> str:
        """gateway, retriever, reader, ingestion, collect, reconcile, backup, test."""
        return self.labels.get("app.kubernetes.io/component", "")


def workloads(manifests: Sequence[Manifest]) -> Iterator[Workload]:
    """All of them, whatever brings their pods."""
    for m in manifests:
        spec = m.get("spec", {})
        if m["kind"] == "Deployment":
            yield Workload(m, spec["template"]["metadata"]["labels"], spec["template"]["spec"], True)
        elif m["kind"] == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Workload(m, template["metadata"]["labels"], template["spec"], False)
        elif m["kind"] == "Pod":
            yield Workload(m, m["metadata"]["labels"], spec, False)
        elif m["kind"] == "SeldonDeployment":
            for predictor in spec["predictors"]:
                for component in predictor["componentSpecs"]:
                    yield Workload(m, predictor["labels"], component["spec"], True)
