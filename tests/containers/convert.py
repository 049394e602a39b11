"""Rendered Kubernetes manifests to what `podman kube play` (4.3) knows. What would be lost unnoticed is an error.

| in Kubernetes | for podman |
|---|---|
| Deployment | a Pod named as the Service that selects it: podman resolves pods by name, and has no Services |
| emptyDir | a folder of the pod's fsGroup on this machine: podman knows no fsGroup |
| restartPolicy Always | OnFailure: podman would restart an init container that has succeeded |
| probes | taken out and handed back: podman would run them in the container, by a shell and curl. Who runs the pod asks them, as the kubelet does |
| containerPort | taken out: podman would open it on this machine too |
| preStop | taken out: podman has none |
| images | of the local store, never pulled |
| NetworkPolicy and other kinds of LEFT_OUT | left out: they say nothing about how a container runs |
"""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEFT_OUT = {
    "Namespace",
    "ServiceAccount",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "ScaledObject",
    "ServiceMonitor",
    "PrometheusRule",
    "Role",
    "RoleBinding",
}
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
    """What podman plays, and what it does not do itself. `documents` are the ConfigMaps and the Pod."""

    name: str
    documents: list[dict[str, Any]]
    probes: list[Probe]
    grace_sec: int

    @property
    def containers(self) -> list[str]:
        """Podman's names of those that stay."""
        return [f"{self.name}-{container['name']}" for container in self.documents[-1]["spec"]["containers"]]


def convert(documents: list[dict[str, Any]], folder: Path) -> list[Pod]:
    """Every Deployment as a pod; `folder` is for its volumes.

    Raises:
        ConvertError: naming the object.
    """
    flat = [item for document in documents if document for item in (document["items"] if document["kind"] == "List" else [document])]
    unknown = sorted({d["kind"] for d in flat} - LEFT_OUT - {"Deployment", "Service", "ConfigMap", "Secret"})
    if unknown:
        raise ConvertError(f"podman has no {', '.join(unknown)}")
    settings = [d for d in flat if d["kind"] in ("ConfigMap", "Secret")]
    services = [d for d in flat if d["kind"] == "Service"]
    return [_pod(copy.deepcopy(d), services, settings, folder) for d in flat if d["kind"] == "Deployment"]


def _pod(deployment: dict[str, Any], services: list[dict[str, Any]], settings: list[dict[str, Any]], folder: Path) -> Pod:
    template, name = deployment["spec"]["template"], deployment["metadata"]["name"]
    spec, labels = template["spec"], template["metadata"]["labels"]
    if not deployment["spec"]["selector"]["matchLabels"].items() <= labels.items():
        raise ConvertError(f"Deployment {name} does not select its own pods")
    selecting = [s for s in services if s["spec"]["selector"].items() <= labels.items()]
    if len(selecting) != 1:
        raise ConvertError(f"{len(selecting)} Services select the pods of Deployment {name}, one can be told by name")
    _check_ports(selecting[0], spec["containers"])
    named = str(selecting[0]["metadata"]["name"])
    probes = [probe for container in spec["containers"] for probe in _take_probes(container)]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        container |= {"image": f"localhost/{container['image']}", "imagePullPolicy": "Never"}
        container["securityContext"] = _security(spec, container)
        for name in ("lifecycle", "ports"):
            container.pop(name, None)
    spec["volumes"] = [_volume(volume, spec, folder / named) for volume in spec.get("volumes", [])]
    spec["restartPolicy"] = "OnFailure"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": named, "labels": labels}, "spec": spec}
    return Pod(named, [*settings, pod], probes, int(spec.get("terminationGracePeriodSeconds", 30)))


def _check_ports(service: dict[str, Any], containers: list[dict[str, Any]]) -> None:
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
