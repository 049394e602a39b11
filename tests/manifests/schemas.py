"""Kubernetes' own schemas of the three newest minor versions (from the kubernetes-validate package), and ours for the custom resources used.

For a custom resource the fields we set are restated here from its published definition; a field that is not restated is refused.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

# The validator parses its files, of megabytes, anew for each object: they are read once.
utils.all_versions, utils.schema_contents = cache(utils.all_versions), cache(utils.schema_contents)

Manifest = Mapping[str, Any]

MINOR_VERSIONS = sorted({".".join(v.split(".")[:2]) for v in utils.all_versions()}, key=lambda v: int(v.split(".")[1]))[-3:]

Shape = Mapping[str, Any] | type | tuple[type, ...]
# {name: shape}: an object with these fields at most; "*" any name. A list's shape is that of its items, in a one-item list.
_CONTAINER = {
    "name": str,
    "resources": {"requests": {"*": (str, int)}, "limits": {"*": (str, int)}},
    "env": [{"name": str, "value": str, "valueFrom": {"*": object}}],
    "securityContext": {"allowPrivilegeEscalation": bool, "readOnlyRootFilesystem": bool, "capabilities": {"drop": [str], "add": [str]}},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
_POD_TEMPLATE = {
    "spec": {
        "automountServiceAccountToken": bool,
        "serviceAccountName": str,
        "securityContext": {"*": object},
        "containers": [_CONTAINER],
        "volumes": [{"name": str, "hostPath": {"path": str}}],
    }
}
_KEDA = {
    "minReplicaCount": int,
    "maxReplicaCount": int,
    "pollingInterval": int,
    "cooldownPeriod": int,
    "triggers": [{"type": str, "metadata": {"serverAddress": str, "query": str, "threshold": str}}],
}
_SELDON_SPEC = {  # of componentSpecs; the pod inside is held against Kubernetes' own schema (rules.py)
    "spec": {"*": object},
    "hpaSpec": {"minReplicas": int, "maxReplicas": int, "metricsv2": [{"type": str, "resource": {"*": object}}]},
    "kedaSpec": _KEDA,
}
CUSTOM: dict[str, Any] = {
    "machinelearning.seldon.io/v1/SeldonDeployment": {
        "name": str,
        "protocol": str,
        "transport": str,
        "predictors": [
            {
                "name": str,
                "annotations": {"*": str},
                "replicas": int,
                "labels": {"*": str},
                "graph": {"name": str, "type": str, "endpoint": {"type": str}, "children": [object]},
                "componentSpecs": [_SELDON_SPEC],
            }
        ],
    },
    "keda.sh/v1alpha1/ScaledObject": {"scaleTargetRef": {"name": str}, **_KEDA},
    "monitoring.coreos.com/v1/PodMonitor": {
        "selector": {"matchLabels": {"*": str}, "matchExpressions": [{"key": str, "operator": str, "values": [str]}]},
        "podTargetLabels": [str],
        "podMetricsEndpoints": [{"port": str, "path": str, "interval": str}],
    },
    "monitoring.coreos.com/v1/PrometheusRule": {
        "groups": [{"name": str, "rules": [{"alert": str, "record": str, "expr": str, "for": str, "labels": {"*": str}, "annotations": {"*": str}}]}]
    },
    "elbv2.k8s.aws/v1beta1/TargetGroupBinding": {
        "serviceRef": {"name": str, "port": (int, str)},
        "targetGroupARN": str,
        "targetType": str,
    },
    "external-secrets.io/v1/ClusterSecretStore": {
        "provider": {"aws": {"service": str, "region": str}},
        "conditions": [{"namespaces": [str]}],
    },
    "external-secrets.io/v1/ExternalSecret": {
        "refreshInterval": str,
        "secretStoreRef": {"kind": str, "name": str},
        "target": {"name": str, "template": {"data": {"*": str}}},
        "data": [{"secretKey": str, "remoteRef": {"key": str, "property": str}}],
        "dataFrom": [{"extract": {"key": str}}],
    },
    "elasticsearch.k8s.elastic.co/v1/Elasticsearch": {
        "version": str,
        "nodeSets": [{"name": str, "count": int, "config": {"*": object}, "podTemplate": _POD_TEMPLATE, "volumeClaimTemplates": [{"*": object}]}],
    },
    "kibana.k8s.elastic.co/v1/Kibana": {"version": str, "count": int, "elasticsearchRef": {"name": str}, "podTemplate": _POD_TEMPLATE},
    "beat.k8s.elastic.co/v1beta1/Beat": {
        "type": str,
        "version": str,
        "elasticsearchRef": {"name": str, "namespace": str},
        "config": {"*": object},
        "daemonSet": {"podTemplate": _POD_TEMPLATE},
    },
}


class Unknown(Exception):
    """A kind that nobody described."""


def problems(manifest: Manifest) -> list[str]:
    """What the schemas say against a manifest, under every minor version.

    Raises:
        Unknown: no schema is known for its kind.
    """
    key = f"{manifest['apiVersion']}/{manifest['kind']}"
    if key in CUSTOM:
        return list(_misfits(manifest["spec"], CUSTOM[key], "spec"))
    return list(_told(json.dumps(manifest, sort_keys=True)))


@cache  # most objects come again and again
def _told(text: str) -> tuple[str, ...]:
    manifest = json.loads(text)
    key = f"{manifest['apiVersion']}/{manifest['kind']}"
    found = []
    for version in MINOR_VERSIONS:
        try:
            kubernetes_validate.validate(manifest, f"{version}.0", strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            raise Unknown(f"{key} is no kind of Kubernetes {version}, and schemas.CUSTOM does not describe it") from error
    return tuple(found)


def _misfits(value: Any, shape: Any, at: str) -> Iterator[str]:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{at}: must be an object"
            return
        for name, part in value.items():
            if name not in shape and "*" not in shape:
                yield f"{at}.{name}: is not a field"
            else:
                yield from _misfits(part, shape.get(name, shape.get("*")), f"{at}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at}: must be a list"
            return
        for i, part in enumerate(value):
            yield from _misfits(part, shape[0], f"{at}.{i}")
    elif not isinstance(value, shape):
        yield f"{at}: must be {shape}"
