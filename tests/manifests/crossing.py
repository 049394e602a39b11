"""Who may speak to whom across namespaces: Kubernetes' own rules for NetworkPolicies, for pods whose listening ports are known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .schemas import Manifest

Flow = tuple[str, str, int]


@dataclass(frozen=True)
class Pod:
    """One kind of pod; `ports` are those it listens on, by their names."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)


def crossing(pods: Sequence[Pod], manifests: Sequence[Manifest]) -> set[Flow]:
    """(from, to, port) of every flow to a listening port that the sender's and the receiver's policies allow."""
    policies = [m for m in manifests if m["kind"] == "NetworkPolicy"]
    return {
        (one.name, other.name, port)
        for one in pods
        for other in pods
        if one is not other
        for port in other.ports.values()
        if _allows(policies, one, "Egress", other, other, port) and _allows(policies, other, "Ingress", one, other, port)
    }


def _allows(policies: Iterable[Manifest], pod: Pod, direction: str, peer: Pod, receiver: Pod, port: int) -> bool:
    rules = [p["spec"].get(direction.lower(), []) for p in policies if _of(p, pod) and direction in p["spec"]["policyTypes"]]
    key = "to" if direction == "Egress" else "from"
    return not rules or any(_meets(rule.get(key), peer, pod.namespace) and _at(rule, receiver, port) for part in rules for rule in part)


def _of(policy: Manifest, pod: Pod) -> bool:
    return bool(policy["metadata"]["namespace"] == pod.namespace) and _selects(policy["spec"]["podSelector"], pod.labels)


def _meets(peers: Sequence[Mapping[str, Any]] | None, pod: Pod, home: str) -> bool:
    """Whether a rule's peers include this pod; an address block is taken to be outside the cluster."""
    if peers is None:
        return True
    for peer in (p for p in peers if "ipBlock" not in p):
        namespaces = peer.get("namespaceSelector")
        there = pod.namespace == home if namespaces is None else _selects(namespaces, {"kubernetes.io/metadata.name": pod.namespace})
        if there and _selects(peer.get("podSelector", {}), pod.labels):
            return True
    return False


def _at(rule: Mapping[str, Any], receiver: Pod, port: int) -> bool:
    return "ports" not in rule or any((receiver.ports.get(p["port"]) if isinstance(p["port"], str) else p["port"]) == port for p in rule["ports"])


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(e["operator"] == "In" for e in expressions), "no other operator is known here"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in expressions)
