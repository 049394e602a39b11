"""What must hold of everything the chart renders. Each rule yields what breaks it, in words."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from .chart import Workload, workloads
from .flows import closed
from .overlays import cluster_secrets
from .schemas import Manifest, problems

PROBES = {
    "gateway": {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"},
    "ingestion": {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"},
    "retriever": {"startupProbe": "/health/status", "readinessProbe": "/health/status", "livenessProbe": "/health/ping"},
    "reader": {"startupProbe": "/health/status", "readinessProbe": "/health/status", "livenessProbe": "/health/ping"},
}
DRAIN_SEC = {"gateway": 30, "retriever": 60, "reader": 60, "ingestion": 30}
PORTS = {"gateway": 8080, "retriever": 9000, "reader": 9000, "ingestion": 9004}
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
IMAGE = re.compile(r"[a-z0-9./:_-]+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9._-]+)")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def broken(manifests: Sequence[Manifest]) -> list[str]:
    """Every rule that is broken."""
    found = []
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        found += [f"{name}: {problem}" for problem in problems(manifest)]
        found += [f"{name}: its name is not a DNS label"] * (not NAME.fullmatch(manifest["metadata"]["name"]))
    for workload in workloads(manifests):
        for rule in (_fits, _restricted, _containers, _mounts, _served, _references):
            found += [f"{workload.name}: {problem}" for problem in rule(workload, manifests)]
        found += [f"{workload.name}: no policy closes its network"] * (not closed(manifests, workload))
    for rule_of_all in (_selectors, _scaling, _seldon, _index, _prepared, _nodes, _edge, _routes, _secrets, _roles, _jobs):
        found += list(rule_of_all(manifests))
    return found


def _fits(workload: Workload, _: Sequence[Manifest]) -> Iterator[str]:
    if workload.owner["kind"] == "SeldonDeployment":
        yield from problems({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": workload.pod})


def _restricted(workload: Workload, _: Sequence[Manifest]) -> Iterator[str]:
    """Pod Security `restricted`, a numeric user, and no token of the API."""
    security = workload.pod.get("securityContext", {})
    if not (security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0 and security.get("seccompProfile") == {"type": "RuntimeDefault"}):
        yield "its pod is not restricted"
    if workload.pod.get("automountServiceAccountToken") is not False or workload.pod.get("enableServiceLinks") is not False:
        yield "it is given a token or the services' addresses"
    if any(workload.pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")) or any("hostPath" in v for v in workload.pod.get("volumes", [])):
        yield "it uses the node"
    for container in _all(workload):
        own = container.get("securityContext", {})
        if own != RESTRICTED:
            yield f"container {container['name']} is not restricted"


def _all(workload: Workload) -> list[dict[str, Any]]:
    return [*workload.pod.get("initContainers", []), *workload.pod["containers"]]


def _containers(workload: Workload, _: Sequence[Manifest]) -> Iterator[str]:
    for container in _all(workload):
        asked = container.get("resources", {})
        if not {"cpu", "memory"} <= asked.get("requests", {}).keys() or "memory" not in asked.get("limits", {}):
            yield f"container {container['name']} does not say what it needs"
        if not IMAGE.fullmatch(container["image"]):
            yield f"image {container['image']} is not pinned"
        for variable in container.get("env", []):
            if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]) and "value" in variable and not variable["value"].startswith("/"):
                yield f"{variable['name']} is written into the manifest"


def _mounts(workload: Workload, _: Sequence[Manifest]) -> Iterator[str]:
    volumes = {v["name"]: v for v in workload.pod.get("volumes", [])}
    mounted = {m["name"] for c in _all(workload) for m in c.get("volumeMounts", [])}
    if mounted - volumes.keys():
        yield f"{sorted(mounted - volumes.keys())} is mounted and not there"
    for container in _all(workload):
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"] == "/tmp" and "emptyDir" not in volumes.get(mount["name"], {}):
                yield "/tmp is not a folder of the pod's own"
            if mount["name"] in ("models", "routes", "edge", "pipeline") and not container["name"].startswith("fetch") and not mount.get("readOnly"):
                yield f"container {container['name']} may write {mount['name']}"


def _served(workload: Workload, _: Sequence[Manifest]) -> Iterator[str]:
    """Probes that ask the right question at a port that is there, and time to drain."""
    if not workload.serves:
        return
    [container] = workload.pod["containers"]
    ports = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
    if ports != {"http": PORTS[workload.component]}:
        yield f"its port is not http, {PORTS[workload.component]}"
    for probe, path in PROBES[workload.component].items():
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") != path or asked.get("port") not in ports:
            yield f"{probe} does not ask {path} at a port it has"
    lame_duck = next((int(v["value"]) for v in container["env"] if v["name"].endswith("_LAME_DUCK_SEC")), 0)
    if workload.pod.get("terminationGracePeriodSeconds", 30) < DRAIN_SEC[workload.component] + lame_duck:
        yield "it is killed before it has drained"


def _references(workload: Workload, manifests: Sequence[Manifest]) -> Iterator[str]:
    made = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    account = workload.pod.get("serviceAccountName")
    if account is not None and ("ServiceAccount", account) not in made:
        yield f"service account {account} is not there"
    if workload.serves and account is None:
        yield "it runs as the namespace's default account"
    for volume in workload.pod.get("volumes", []):
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in made:
            yield f"config map {volume['configMap']['name']} is not there"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and ("PersistentVolumeClaim", claim) not in made and not claim.startswith("existing-"):
            yield f"claim {claim} is not there"


def _selectors(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Services and disruption budgets meet exactly one workload, deployments their own pods; a service's port is there."""
    running = list(workloads(manifests))
    for manifest in manifests:
        spec, name = manifest.get("spec", {}), f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "Deployment" and not spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items():
            yield f"{name}: its selector does not meet its pods"
        selector = {"Service": spec.get("selector"), "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels")}.get(manifest["kind"])
        if selector is None:
            continue
        met = [w for w in running if selector.items() <= w.labels.items()]
        if len(met) != 1:
            yield f"{name}: its selector meets {[w.name for w in met] or 'nothing'}"
        elif manifest["kind"] == "Service":
            there = {p["name"] for c in met[0].pod["containers"] for p in c.get("ports", [])}
            if not {p["targetPort"] for p in spec["ports"]} <= there:
                yield f"{name}: its port leads nowhere"
        elif spec.get("maxUnavailable") != 1:
            yield f"{name}: it does not keep all pods but one"


def _scaling(manifests: Sequence[Manifest]) -> Iterator[str]:
    deployments = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "Deployment"}
    for manifest in manifests:
        if manifest["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = manifest["spec"]["scaleTargetRef"]["name"]
            if target not in deployments:
                yield f"{manifest['kind']} {manifest['metadata']['name']}: scales nothing"
            elif "replicas" in deployments[target]:
                yield f"Deployment {target}: its replicas are fixed and scaled"
        if manifest["kind"] == "SeldonDeployment":
            for predictor in manifest["spec"]["predictors"]:
                if "replicas" in predictor and any({"hpaSpec", "kedaSpec"} & c.keys() for c in predictor["componentSpecs"]):
                    yield f"SeldonDeployment {manifest['metadata']['name']}: its replicas are fixed and scaled"


def _seldon(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What its operator would add: an engine before the container (`seldondeployment_controller.go`), and a shell's sleep before SIGTERM."""
    for manifest in manifests:
        if manifest["kind"] == "SeldonDeployment":
            for predictor in manifest["spec"]["predictors"]:
                if predictor.get("annotations", {}).get("seldon.io/no-engine") != "true":
                    yield f"SeldonDeployment {manifest['metadata']['name']}: it is given an engine"
                if any("lifecycle" not in c for part in predictor["componentSpecs"] for c in part["spec"]["containers"]):
                    yield f"SeldonDeployment {manifest['metadata']['name']}: it is given a preStop that needs a shell"


def _index(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Whoever has the index's volume open is scheduled beside the others, and no budget keeps them on their node."""
    sharing = [w for w in workloads(manifests) if any("persistentVolumeClaim" in v for v in w.pod.get("volumes", []))]
    for workload in sharing:
        terms = workload.pod.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [{}])
        chosen = {name for t in terms for e in t.get("labelSelector", {}).get("matchExpressions", []) for name in e["values"]}
        if [t.get("topologyKey") for t in terms] != ["kubernetes.io/hostname"] or not {w.component for w in sharing} <= chosen:
            yield f"{workload.name}: may run on another node than the index's others"
    for manifest in manifests:
        if manifest["kind"] == "PersistentVolumeClaim" and manifest["spec"]["accessModes"] != ["ReadWriteOnce"]:
            yield f"PersistentVolumeClaim {manifest['metadata']['name']}: it is no disk of one node"
        if manifest["kind"] == "PodDisruptionBudget" and any(manifest["spec"]["selector"]["matchLabels"].items() <= w.labels.items() for w in sharing):
            yield f"PodDisruptionBudget {manifest['metadata']['name']}: keeps a node from being drained"


def _prepared(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Before ingestion takes uploads it has made the index of each release's retriever, which that retriever waits for."""
    [routes] = (m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].endswith("-routes"))
    generation = {r["release_id"]: r["index_generation"] for name, text in routes.items() if name != "routes.json" and (r := json.loads(text))}
    for workload in workloads(manifests):
        if workload.component == "ingestion":
            steps = [c["args"] for c in workload.pod["initContainers"]]
            fetched = [args[1] for args in steps if args[0] == "fetch"]
            if [args[0] for args in steps] != ["fetch", "--prepare"] * len(fetched) or {generation.get(i) for i in fetched} != set(generation.values()):
                yield f"{workload.name}: not every release's index is made"


def _nodes(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Models, and whatever is scheduled beside them, are sent to the same nodes, and bear their taints."""
    chosen = {}
    for workload in workloads(manifests):
        if workload.component not in ("gateway", "test"):
            chosen[workload.name] = json.dumps([workload.pod.get("nodeSelector"), workload.pod.get("tolerations")])
    if len(set(chosen.values())) > 1:
        yield f"sent to different nodes: {chosen}"


def _edge(manifests: Sequence[Manifest]) -> Iterator[str]:
    """The edge's target group gets the gateway's pods by address, at its port; who may reach them is not the controller's to say."""
    ports = {(m["metadata"]["name"], p["port"]): m["spec"]["selector"] for m in manifests if m["kind"] == "Service" for p in m["spec"]["ports"]}
    for manifest in manifests:
        if manifest["kind"] == "TargetGroupBinding":
            spec, name = manifest["spec"], f"TargetGroupBinding {manifest['metadata']['name']}"
            selector = ports.get((spec["serviceRef"]["name"], spec["serviceRef"]["port"]), {})
            if selector.get("app.kubernetes.io/component") != "gateway":
                yield f"{name}: its service is not the gateway's"
            if spec.get("targetType") != "ip" or "networking" in spec:
                yield f"{name}: terraform's target group takes addresses, and terraform says who reaches them"


def _routes(manifests: Sequence[Manifest]) -> Iterator[str]:
    """The routing table's addresses are services, and each serves the release the table says, fetched by its id."""
    [routes] = (m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].endswith("-routes"))
    table = json.loads(routes["routes.json"])
    places = {(m["metadata"]["name"], p["port"]) for m in manifests if m["kind"] == "Service" for p in m["spec"]["ports"]}
    places |= {(f"{m['metadata']['name']}-{p['name']}", 9000) for m in manifests if m["kind"] == "SeldonDeployment" for p in m["spec"]["predictors"]}
    for identity, route in table["releases"].items():
        if json.loads(routes[route["release"]])["release_id"] != identity:
            yield f"release {identity} has another's manifest"
        for kind in ("retriever_url", "reader_url"):
            address = urlsplit(route[kind])
            if (address.hostname, address.port) not in places:
                yield f"release {identity}: {route[kind]} is nobody's address"
            elif identity not in (address.hostname or ""):
                yield f"release {identity}: {route[kind]} is another's address"
    for workload in workloads(manifests):
        if workload.component in ("retriever", "reader"):
            [fetch] = workload.pod["initContainers"]
            if fetch["args"][1:3] != [workload.labels["quarry/release"], workload.component]:
                yield f"{workload.name}: it fetches {fetch['args'][1:3]}"


def _secrets(manifests: Sequence[Manifest]) -> Iterator[str]:
    made = {m["spec"]["target"]["name"] for m in manifests if m["kind"] == "ExternalSecret"}
    made |= {name for namespace, name in cluster_secrets() if namespace == "quarry"}
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            yield f"Secret {manifest['metadata']['name']} is in the chart"
        if manifest["kind"] == "ExternalSecret":
            written = re.findall(r"\{\{ \.(\w+) \}\}", json.dumps(manifest["spec"]["target"].get("template", {})))
            if sorted(written) != sorted(d["secretKey"] for d in manifest["spec"].get("data", [])):
                yield f"ExternalSecret {manifest['metadata']['name']}: what is fetched is not what is written"
    for workload in workloads(manifests):
        used = {v["valueFrom"]["secretKeyRef"]["name"] for c in _all(workload) for v in c.get("env", []) if "secretKeyRef" in v.get("valueFrom", {})}
        used |= {e["secretRef"]["name"] for c in _all(workload) for e in c.get("envFrom", [])}
        used |= {v["secret"]["secretName"] for v in workload.pod.get("volumes", []) if "secret" in v}
        for name in used - made:
            if not name.startswith("existing-"):
                yield f"{workload.name}: secret {name} is nobody's"


def _roles(manifests: Sequence[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if manifest["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            yield f"{manifest['kind']} {manifest['metadata']['name']}: none of ours asks the API anything"


def _jobs(manifests: Sequence[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if manifest["kind"] == "CronJob" and manifest["spec"].get("concurrencyPolicy") != "Forbid":
            yield f"CronJob {manifest['metadata']['name']}: may run twice at once"
