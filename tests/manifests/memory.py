"""What a laptop's cluster asks for, summed over what is rendered and what our values give the charts of others: `python -m manifests.memory`.

Kubeflow's manifests and what the charts bring besides (Seldon's and Prometheus's operators' helpers, Grafana, Kubernetes itself) cannot be fetched where this
was built and are not in it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .chart import CHART, render, values, workloads
from .overlays import K8S, everything, pod_of

UNITS = {"": 1, "Mi": 2**20, "Gi": 2**30}
Asked = tuple[float, float]  # processors, GiB


def requests(resources: Mapping[str, Any]) -> Asked:
    """Processors and GiB of a container's requests."""
    cpu, memory = str(resources["requests"]["cpu"]), str(resources["requests"]["memory"])
    number = memory.rstrip("GMi")
    return float(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1), float(number) * UNITS[memory.removeprefix(number)] / 2**30


def given(release: str) -> dict[str, Any]:
    """Our values for a chart on kind: the release's file, and kind's over it; null takes away."""
    found: dict[str, Any] = {}
    for path in (K8S / f"values/{release}.yaml", K8S / f"values/{release}-kind.yaml"):
        if path.exists():
            found = _over(found, yaml.safe_load(path.read_text()))
    return found


def _over(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for key, value in other.items():
        both[key] = _over(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return {key: value for key, value in both.items() if value is not None}


def parts() -> dict[str, Asked]:
    """By part, as WITHOUT names them; what cannot be left out is `the rest`."""
    found: dict[str, Asked] = {}
    for part, resources in _containers():
        cpu, memory = requests(resources)
        before = found.get(part, (0.0, 0.0))
        found[part] = (before[0] + cpu, before[1] + memory)
    return found


def _containers() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for manifest in everything("kind"):
        for container in (pod_of(manifest) or {}).get("containers", []):
            yield "the rest", container["resources"]
        spec = manifest.get("spec", {})
        templates = [node["podTemplate"] for node in spec.get("nodeSets", [])] + [
            t for t in (spec.get("podTemplate"), spec.get("daemonSet", {}).get("podTemplate")) if t
        ]
        for template in templates:
            yield "logging", template["spec"]["containers"][0]["resources"]
    for workload in (w for w in workloads(render(values(), [CHART / "values-local.yaml"])) if w.serves):
        yield "the rest", workload.pod["containers"][0]["resources"]
    for name in ("scheduler", "dagProcessor", "apiServer"):
        yield "airflow", given("airflow")[name]["resources"]
    yield "logging", given("eck")["resources"]
    yield "prometheus", given("prometheus")["prometheus"]["prometheusSpec"]["resources"]
    manager = given("seldon-core")["manager"]
    yield "seldon-core", {"requests": {"cpu": manager["cpuRequest"], "memory": manager["memoryRequest"]}}


def table() -> str:
    """Markdown, the largest first, and the sum."""
    found = parts()
    rows = [*sorted(found.items(), key=lambda row: -row[1][1]), ("in all", (sum(c for c, _ in found.values()), sum(m for _, m in found.values())))]
    return "\n".join(["| part | memory, GiB | processors |", "|---|---|---|", *(f"| {name} | {memory:.1f} | {cpu:.1f} |" for name, (cpu, memory) in rows)])


if __name__ == "__main__":
    print(table())
