"""Rendered Kubernetes manifests to what `podman kube play` (4.3) knows. What would be lost unnoticed is an error.

| in Kubernetes | for podman |
|---|---|
| Deployment of one replica | a Pod named as the Service that selects it: podman resolves pods by name, and has no Services |
| Pod | that Pod, which runs once |
| emptyDir | a folder of the pod's fsGroup on this machine: podman knows no fsGroup |
| restartPolicy Always | OnFailure: podman would restart an init container that has succeeded |
| probes | taken out and handed back: podman would run them in the container, by a shell and curl. Who runs the pod asks them, as the kubelet does |
| containerPort | taken out: podman would open it on this machine too |
| preStop | taken out: podman has none |
| images | of the local store, never pulled |
| kinds of LEFT_OUT | left out: they say nothing about how a container runs |
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.schemas import Manifest

LEFT_OUT = {
    "ServiceAccount",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "ScaledObject",
    "PodMonitor",
    "PrometheusRule",
}
VALUES = {"mode": "plain", "index": {"store": "snapshot"}, "ingestion": {"enabled": False}}  # of helm/quarry: no operator, no volume
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PLAIN_VOLUMES = {"configMap", "secret", "persistentVolumeClaim"}


class ConvertError(Exception):
    """The manifests say something that podman cannot do, or that is wrong in itself."""


@dataclass(frozen=True)
class Probe:
    """An HTTP probe of the kubelet's."""

    container: str
    kind: str
    port: int
    path: str


@dataclass(frozen=True)
class Pod:
    """What podman plays, and what it does not do itself. `documents` are the ConfigMaps and the Pod; one that does not stay runs once, to its end."""

    name: str
    stays: bool
    documents: list[Manifest]
    probes: list[Probe]
    grace_sec: int

    @property
    def containers(self) -> list[str]:
        """Podman's names of those that stay."""
        return [f"{self.name}-{container['name']}" for container in self.documents[-1]["spec"]["containers"]]


def convert(documents: Sequence[Manifest], folder: Path) -> list[Pod]:
    """Every Deployment and every Pod as a pod of podman's; `folder` is for its volumes.

    Raises:
        ConvertError: naming the object.
    """
    if unknown := sorted({d["kind"] for d in documents} - LEFT_OUT - {"Deployment", "Pod", "Service", "ConfigMap", "Secret"}):
        raise ConvertError(f"podman has no {', '.join(unknown)}")
    settings = [d for d in documents if d["kind"] in ("ConfigMap", "Secret")]
    services = [d for d in documents if d["kind"] == "Service"]
    found = []
    for document in map(copy.deepcopy, documents):
        name = document["metadata"]["name"]
        if document["kind"] == "Deployment":
            served = _service(document, services)
            found.append(_pod(served, document["spec"]["template"], settings, folder / served))
        elif document["kind"] == "Pod":
            found.append(_pod(name, document, settings, folder / name))
    return found


def _service(deployment: Manifest, services: Sequence[Manifest]) -> str:
    """The name that its pods are reached by."""
    name, spec = deployment["metadata"]["name"], deployment["spec"]
    labels = spec["template"]["metadata"]["labels"]
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        raise ConvertError(f"Deployment {name} does not select its own pods")
    if spec.get("replicas", 1) != 1:
        raise ConvertError(f"Deployment {name} has {spec['replicas']} replicas, of which podman would play one")
    selecting = [s for s in services if s["spec"]["selector"].items() <= labels.items()]
    if len(selecting) != 1:
        raise ConvertError(f"{len(selecting)} Services select the pods of Deployment {name}, one can be told by name")
    _check_ports(selecting[0], spec["template"]["spec"]["containers"])
    return str(selecting[0]["metadata"]["name"])


def _pod(name: str, template: Manifest, settings: Sequence[Manifest], folder: Path) -> Pod:
    spec, labels = template["spec"], template["metadata"]["labels"]
    probes = [probe for container in spec["containers"] for probe in _take_probes(container)]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        container |= {"image": f"localhost/{container['image']}", "imagePullPolicy": "Never"}
        container["securityContext"] = _security(spec, container)
        for taken in ("lifecycle", "ports"):
            container.pop(taken, None)
    spec["volumes"] = [_volume(volume, spec, folder) for volume in spec.get("volumes", [])]
    spec["restartPolicy"] = "OnFailure" if spec.get("restartPolicy", "Always") == "Always" else spec["restartPolicy"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    return Pod(name, spec["restartPolicy"] == "OnFailure", [*settings, pod], probes, int(spec.get("terminationGracePeriodSeconds", 30)))


def _check_ports(service: Manifest, containers: Sequence[Manifest]) -> None:
    """A pod is reached at its own ports: a Service that translates them cannot be played."""
    named = {port.get("name"): port["containerPort"] for container in containers for port in container.get("ports", [])}
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        number = named.get(target, target)
        if number != port["port"] or number not in named.values():
            raise ConvertError(f"Service {service['metadata']['name']}: port {port['port']} leads to {target}, which its pods do not have under that number")


def _take_probes(container: dict[str, Any]) -> list[Probe]:
    found = []
    named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for kind in PROBES:
        probe = container.pop(kind, None)
        if probe is None:
            continue
        asked = probe.get("httpGet")
        if asked is None or named.get(asked["port"], asked["port"]) not in named.values():
            raise ConvertError(f"{kind} of {container['name']} is not an HTTP question to one of its own ports")
        found.append(Probe(str(container["name"]), kind, int(named.get(asked["port"], asked["port"])), str(asked["path"])))
    return found


def _security(spec: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """Podman reads users from the container's context alone."""
    return {k: v for k, v in spec.get("securityContext", {}).items() if k in ("runAsUser", "runAsGroup", "runAsNonRoot")} | container.get("securityContext", {})


def _volume(volume: dict[str, Any], spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """As the kubelet makes an emptyDir: of the fsGroup, writable by it, and files in it belong to it."""
    if volume.keys() & PLAIN_VOLUMES:
        return volume
    if volume.keys() != {"name", "emptyDir"}:
        raise ConvertError(f"volume {volume['name']} is of a kind that podman does not have")
    path = folder / volume["name"]
    path.mkdir(parents=True)
    os.chown(path, 0, spec.get("securityContext", {}).get("fsGroup", 0))
    path.chmod(0o2775)
    return {"name": volume["name"], "hostPath": {"path": str(path), "type": "Directory"}}
