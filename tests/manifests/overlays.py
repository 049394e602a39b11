"""k8s/, rendered by kubectl's kustomize."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .chart import CLONE, GO
from .schemas import Manifest

K8S = CLONE / "k8s"
GIVEN = Path(__file__).with_name("account.env")  # as `terraform output platform` prints it: tests/infrastructure compares
OF_AWS = ("staging", "production")
OVERLAYS = ("kind", *OF_AWS)
RELEASE = "QUARRY_RELEASE=f8d74ec1693a\n"  # as cluster.sh writes it
CLUSTER = K8S / "cluster.sh"
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: install it to render k8s/ by kustomize")


def cluster_secrets() -> dict[tuple[str, str], set[str]]:
    """The secrets that cluster.sh makes on a laptop: the keys of (namespace, name)."""
    found = re.findall(r"^ *(?:secret|once) (\S+) (\S+) <<SECRET\n(.*?)^SECRET$", CLUSTER.read_text(), re.MULTILINE | re.DOTALL)
    [everywhere] = re.findall(r"for namespace in ([a-z ]+); do", CLUSTER.read_text())
    of = {'"$namespace"': everywhere.split()}
    return {(n, name): set(re.findall(r"^([\w-]+)=", text, re.MULTILINE)) for namespace, name, text in found for n in of.get(namespace, [namespace])}


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """What kubectl's kustomize makes of it, once the account's files lie where platform.sh asks for them."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(K8S, Path(scratch) / "k8s")
        for overlay in OF_AWS:
            shutil.copy(GIVEN, copy / f"overlays/{overlay}/account.env")
        (copy / "overlays/kind/release.env").write_text(RELEASE)
        done = subprocess.run(["kubectl", "kustomize", str(copy / folder)], capture_output=True, text=True, timeout=60, env=os.environ | GO)
    assert done.returncode == 0, done.stderr
    return tuple(filter(None, yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)))


def everything(overlay: str) -> tuple[Manifest, ...]:
    """The overlay and its logging, as platform.sh applies them."""
    return rendered(f"overlays/{overlay}") + rendered("overlays/kind/logging" if overlay == "kind" else "components/logging")


def named(manifests: tuple[Manifest, ...], kind: str) -> Iterator[Manifest]:
    return (m for m in manifests if m["kind"] == kind)


def where(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return f"{manifest['kind']} {meta.get('namespace', '')}/{meta['name']}"


def pod_of(manifest: Manifest) -> Mapping[str, Any] | None:
    template: Mapping[str, Any] | None = manifest.get("spec", {}).get("template")
    return template["spec"] if manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job") and template else None
