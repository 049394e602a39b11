"""Who may speak to whom, computed from the NetworkPolicies: a flow is there when the one's way out and the other's way in both allow it."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from .chart import Workload, workloads
from .schemas import Manifest

OUTSIDE = "outside"
DNS = "dns"
NODE = "node agent"
KNOWN = {"kube-system": DNS, "monitoring": "prometheus"}
Flow = tuple[str, str, int]


def flows(manifests: Sequence[Manifest]) -> set[Flow]:
    """(from, to, port) of every flow that is allowed. Ours are named by component; what is not ours by what it is."""
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    running = list(workloads(manifests))
    found: set[Flow] = set()
    for one in running:
        for rule in _rules(policies, one, "ingress"):
            found |= {(name, one.component, port) for name in _strangers(rule.get("from")) for port in _ports(rule, one)}
        for rule in _rules(policies, one, "egress"):
            found |= {(one.component, name, port) for name in _strangers(rule.get("to")) for port in _ports(rule, one)}
            for other in running:
                if _meets(rule.get("to"), other):
                    into = [r for r in _rules(policies, other, "ingress") if _meets(r.get("from"), one)]
                    found |= {(one.component, other.component, p) for p in _ports(rule, other) if any(p in _ports(r, other) for r in into)}
    return found


def closed(manifests: Sequence[Manifest], workload: Workload) -> bool:
    """Whether some policy closes both ways of a workload."""
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    directions = {d for p in policies if _selects(p["podSelector"], workload.labels) for d in p["policyTypes"]}
    return directions == {"Ingress", "Egress"}


def _rules(policies: Sequence[Mapping[str, Any]], workload: Workload, direction: str) -> list[Mapping[str, Any]]:
    return [rule for p in policies if _selects(p["podSelector"], workload.labels) for rule in p.get(direction, [])]


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _meets(peers: Sequence[Mapping[str, Any]] | None, workload: Workload) -> bool:
    return peers is None or any("podSelector" in p and "namespaceSelector" not in p and _selects(p["podSelector"], workload.labels) for p in peers)


def _strangers(peers: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """Peers that are not pods of ours."""
    if peers is None:
        return {"anybody"}
    names = set()
    for peer in peers:
        if "ipBlock" in peer:
            names.add(_of_block(peer["ipBlock"]))
        elif "namespaceSelector" in peer:
            namespace = peer["namespaceSelector"].get("matchLabels", {}).get("kubernetes.io/metadata.name", "anybody")
            names.add(KNOWN.get(namespace, f"namespace {namespace}"))
    return names


def _of_block(block: Mapping[str, Any]) -> str:
    network = ipaddress.ip_network(block["cidr"])
    if str(network) == "169.254.170.23/32":
        return NODE
    if network.prefixlen == 0:
        private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
        return OUTSIDE if private <= set(block.get("except", [])) else "anybody"
    return f"addresses {network}"


def _ports(rule: Mapping[str, Any], workload: Workload) -> set[int]:
    """Numbers; a named port is the workload's own."""
    if "ports" not in rule:
        return {0}
    named = {p["name"]: p["containerPort"] for c in workload.pod["containers"] for p in c.get("ports", [])}
    return {named.get(p["port"], -1) if isinstance(p["port"], str) else p["port"] for p in rule["ports"]}
