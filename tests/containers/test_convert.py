"""The step between what a chart renders and what podman plays."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests.chart import CHART, HELM, LIVE, render, values

from .convert import VALUES, ConvertError, Probe, convert

READER = f"quarry-reader-{LIVE}"
Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None]
pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return render(values(**VALUES), [CHART / "values-local.yaml"])


def find(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))


def test_pods_are_named_as_services_and_keep_what_podman_knows(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    before = copy.deepcopy(documents)
    pods = {pod.name: pod for pod in convert(documents, tmp_path)}
    assert documents == before
    assert pods.keys() == {"quarry-gateway", READER, f"quarry-retriever-{LIVE}", "quarry-question"}
    reader = pods[READER]
    assert reader.probes == [
        Probe("reader", "startupProbe", 9000, "/health/status"),
        Probe("reader", "readinessProbe", 9000, "/health/status"),
        Probe("reader", "livenessProbe", 9000, "/health/ping"),
    ]
    assert (reader.containers, reader.grace_sec) == ([f"{READER}-reader"], 75)
    assert {d["kind"] for d in reader.documents} == {"ConfigMap", "Pod"}
    rendered, played = find(documents, "Deployment", READER)["spec"]["template"]["spec"], reader.documents[-1]["spec"]
    for was, now in zip(rendered["initContainers"] + rendered["containers"], played["initContainers"] + played["containers"], strict=True):
        kept = {k: v for k, v in was.items() if not k.endswith("Probe") and k not in ("image", "imagePullPolicy", "securityContext", "ports", "lifecycle")}
        assert kept.items() <= now.items()
        assert now["securityContext"] == {**was["securityContext"], "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}


def test_an_emptydir_belongs_to_the_pods_group(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    find(documents, "Deployment", READER)["spec"]["template"]["spec"]["securityContext"]["fsGroup"] = Path(tmp_path).stat().st_gid
    convert(documents, tmp_path)
    made = (tmp_path / f"{READER}/models").stat()
    assert (made.st_gid, made.st_mode & 0o7777) == (Path(tmp_path).stat().st_gid, 0o2775)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d, s, c: d["spec"]["selector"]["matchLabels"].update(x="y"), "does not select its own pods"),
        (lambda d, s, c: s["spec"]["selector"].update(x="y"), f"0 Services select the pods of Deployment {READER}"),
        (lambda d, s, c: s["spec"]["ports"][0].update(targetPort="htp"), "leads to htp"),
        (lambda d, s, c: s["spec"]["ports"][0].update(port=80), "port 80 leads to http"),
        (lambda d, s, c: c["livenessProbe"]["httpGet"].update(port="metrics"), "livenessProbe of reader is not an HTTP question"),
        (lambda d, s, c: c.update(readinessProbe={"exec": {"command": ["true"]}}), "readinessProbe of reader is not an HTTP question"),
        (lambda d, s, c: d["spec"]["template"]["spec"]["volumes"].append({"name": "x", "nfs": {}}), "volume x is of a kind that podman does not have"),
        (lambda d, s, c: d["spec"].update(replicas=2), f"Deployment {READER} has 2 replicas"),
        (lambda d, s, c: d.update(kind="StatefulSet"), "podman has no StatefulSet"),
    ],
)
def test_what_podman_cannot_do_is_told(documents: list[dict[str, Any]], tmp_path: Path, change: Change, said: str) -> None:
    deployment, service = find(documents, "Deployment", READER), find(documents, "Service", READER)
    change(deployment, service, deployment["spec"]["template"]["spec"]["containers"][0])
    with pytest.raises(ConvertError, match=said):
        convert(documents, tmp_path)
