"""A laptop's cluster as it is rendered: helm/quarry with its values, and every kind of pod whose labels and ports are known."""

from collections.abc import Iterator
from typing import Any

from .chart import CHART, render, values, workloads
from .crossing import Flow, Pod, crossing
from .overlays import everything, named

AIRFLOW = {"tier": "airflow", "release": "airflow"}
SOURCE = {"source": "s3://quarry/documents/"}  # where Airflow is left out, so that the flows of `collect` are among the others


def laptop(**more: Any) -> list[dict[str, Any]]:
    """helm/quarry as make cluster deploys it."""
    return [{**m, "metadata": {"namespace": "quarry", **m["metadata"]}} for m in render(values(**more), [CHART / "values-local.yaml"])]


def pods() -> Iterator[Pod]:
    """Every kind of pod of a laptop whose labels and ports are known: ours, and of the charts and operators of others those that ours meet."""
    for manifest in named(everything("kind"), "Deployment"):
        template = manifest["spec"]["template"]
        listening = {p["name"]: p["containerPort"] for c in template["spec"]["containers"] for p in c["ports"]}
        yield Pod(manifest["metadata"]["name"], manifest["metadata"]["namespace"], template["metadata"]["labels"], listening)
    for workload in workloads(laptop(ingestion=SOURCE)):
        listening = {p["name"]: p["containerPort"] for c in workload.pod["containers"] for p in c.get("ports", [])}
        yield Pod(workload.component, "quarry", workload.labels, listening)
    for component, listening in {"scheduler": {"health": 8974}, "dag-processor": {}, "api-server": {"api": 8080}, "run-airflow-migrations": {}}.items():
        yield Pod(component, "quarry", AIRFLOW | {"component": component}, listening)
    kind = "common.k8s.elastic.co/type"  # which ECK writes on its pods
    yield Pod("elasticsearch", "logging", {kind: "elasticsearch"}, {"https": 9200, "transport": 9300})
    yield Pod("kibana", "logging", {kind: "kibana"}, {"https": 5601})
    yield Pod("eck", "logging", {"control-plane": "elastic-operator"})
    yield Pod("filebeat", "node-agents", {kind: "beat"})
    yield Pod("ml-pipeline", "kubeflow", {"app": "ml-pipeline"}, {"http": 8888})
    yield Pod("step", "kubeflow", {"pipeline/runid": "x"})
    yield Pod("prometheus", "monitoring", {})
    yield Pod("stranger", "default", {"app.kubernetes.io/name": "mlflow", **AIRFLOW, "component": "scheduler"})  # the right labels, the wrong namespace


def laptop_flows() -> set[Flow]:
    """Who may speak to whom there."""
    return crossing(list(pods()), (*everything("kind"), *laptop(ingestion=SOURCE)))
