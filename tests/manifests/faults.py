# ruff: noqa: E501 - one fault a line
"""Faults planted in a copy of the chart, one at a time, and whether a rule tells: `python -m manifests.faults`."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .chart import CHART, HelmError, render, values
from .flows import flows
from .rules import broken
from .schemas import Unknown

# name: (file, what stands there, what stands there instead)
FAULTS: dict[str, tuple[str, str, str]] = {
    "wrong port name": ("services.yaml", "targetPort: http\n", "targetPort: htpp\n"),
    "wrong container port": ("gateway.yaml", "containerPort: 8080", "containerPort: 8081"),
    "missing limit": ("_helpers.tpl", "limits: { memory: 256Mi }", "limits: {}"),
    "root user": ("_helpers.tpl", "runAsUser: 65532", "runAsUser: 0"),
    "root allowed": ("_helpers.tpl", "runAsNonRoot: true", "runAsNonRoot: false"),
    "privilege escalation": ("_helpers.tpl", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
    "writable root": ("_helpers.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    "capabilities kept": ("_helpers.tpl", "capabilities: { drop: [ALL] }", "capabilities: { drop: [NET_RAW] }"),
    "no seccomp": ("_helpers.tpl", "seccompProfile: { type: RuntimeDefault }", "seccompProfile: { type: Unconfined }"),
    "selector typo": (
        "services.yaml",
        '(dict "root" . "component" "gateway") | nindent 4 }}\n  ports',
        '(dict "root" . "component" "gatway") | nindent 4 }}\n  ports',
    ),
    "policy too wide": (
        "network.yaml",
        "- to: # the issuer's keys\n        {{- toYaml .Values.network.outside | nindent 8 }}",
        "- to:\n        - ipBlock: { cidr: 0.0.0.0/0 }",
    ),
    "way in for all": ("network.yaml", '{{- include "quarry.scraped" $ | nindent 4 }}', "- {}"),
    "policy missing": ("network.yaml", 'list "retriever" "reader" }}\n{{- if', 'list "retriever" }}\n{{- if'),
    "probe on a wrong path": ("gateway.yaml", "path: /readyz", "path: /ready"),
    "readiness asked of the living": (
        "_helpers.tpl",
        "readinessProbe:\n      httpGet: { path: /health/status",
        "readinessProbe:\n      httpGet: { path: /health/ping",
    ),
    "probe at no port": (
        "gateway.yaml",
        "httpGet: { path: /healthz, port: http }\n            periodSeconds: 10",
        "httpGet: { path: /healthz, port: web }\n            periodSeconds: 10",
    ),
    "secret in values": (
        "_helpers.tpl",
        "      - name: PINECONE_API_KEY\n",
        '      - { name: PINECONE_TOKEN, value: "pcsk_x" }\n      - name: PINECONE_API_KEY\n',
    ),
    "secret object": (
        "volume.yaml",
        "apiVersion: v1\nkind: PersistentVolumeClaim",
        "apiVersion: v1\nkind: Secret\nmetadata: { name: x }\n---\napiVersion: v1\nkind: PersistentVolumeClaim",
    ),
    "an engine before the model": ("models-seldon.yaml", "seldon.io/no-engine", "seldon.io/no_engine"),
    "Seldon's own preStop": ("_helpers.tpl", "    lifecycle: {}", "    #"),
    "the index on another node": ("ingestion.yaml", '{{- include "quarry.beside" . }}\n', ""),
    "a network file system": ("volume.yaml", "[ReadWriteOnce]", "[ReadWriteMany]"),
    "a budget that holds the index's node": (
        "disruption.yaml",
        'ternary (list "retriever" "reader") (list "reader") (eq $.Values.index.store "snapshot")',
        'list "retriever" "reader"',
    ),
    "latest": (
        "_helpers.tpl",
        '{{ printf "%s%s:%s" $images.registry $image.repository $images.tag }}',
        '{{ printf "%s%s:latest" $images.registry $image.repository }}',
    ),
    "token mounted": ("gateway.yaml", "automountServiceAccountToken: false", "automountServiceAccountToken: true"),
    "replicas fixed and scaled": ("gateway.yaml", "{{- if not $own.autoscaling.enabled }}\n  replicas", "{{- if true }}\n  replicas"),
    "scaling nothing": ("autoscaling.yaml", "kind: Deployment, name: {{ .Release.Name }}-gateway", "kind: Deployment, name: {{ .Release.Name }}-gate"),
    "budget that blocks a drain": ("disruption.yaml", "maxUnavailable: 1", "maxUnavailable: 0"),
    "grace under the drain": ("gateway.yaml", "{{ add 30 $own.lameDuckSec 10 }}", "10"),
    "another's address": ("routes.yaml", '"component" "reader" "release" $release', '"component" "reader" "release" (index $releases 0)'),
    "another's artefact": ("_helpers.tpl", "- fetch\n    - {{ .release.id | quote }}", "- fetch\n    - {{ .root.Values.test.question | quote }}"),
    "account missing": ("serviceaccounts.yaml", 'list "gateway" "retriever" "reader"', 'list "gateway" "reader"'),
    "two writers at once": ("ingestion.yaml", "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow"),
    "models writable": ("_helpers.tpl", "mountPath: /mnt/models, readOnly: true", "mountPath: /mnt/models"),
    "a folder of the node": ("gateway.yaml", "- { name: tmp, emptyDir: {} }", "- { name: tmp, hostPath: { path: /tmp } }"),
    "a role over everything": (
        "volume.yaml",
        "{{- if and (ne",
        'apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: x }\nrules: [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }]\n---\n{{- if and (ne',
    ),
    "targets of another service": (
        "edge.yaml",
        "serviceRef: { name: {{ $.Release.Name }}-gateway, port: 8080 }",
        "serviceRef: { name: {{ $.Release.Name }}-ingestion, port: 9004 }",
    ),
    "targets at another port": ("edge.yaml", "port: 8080", "port: 80"),
    "targets by node": ("edge.yaml", "targetType: ip", "targetType: instance"),
    "a way in by the controller": (
        "edge.yaml",
        "  targetType: ip",
        "  targetType: ip\n  networking: { ingress: [{ from: [{ ipBlock: { cidr: 0.0.0.0/0 } }], ports: [{ protocol: TCP }] }] }",
    ),
    "one of the edge's keys left out": ("secrets.yaml", "{{- range $i, $_ := $secret.keys }}", "{{- range $i, $_ := list (first $secret.keys) }}"),
    "models on any node": ("_helpers.tpl", '{{- include "quarry.nodes" .root }}\n', ""),
    "the index's writer on any node": ("ingestion.yaml", '{{- include "quarry.nodes" . }}\n', ""),
    "an index that nobody makes": ("ingestion.yaml", "args: [--prepare,", "args: [--digest,"),
    "a field that is none": ("gateway.yaml", "terminationGracePeriodSeconds", "terminationGracePeriod"),
}
GIVEN = {
    "index": {"store": "pinecone", "pinecone": {"host": "https://x.svc.pinecone.io", "externalSecret": "quarry/pinecone"}},
    "ingestion": {"enabled": True, "source": "s3://b/documents/"},
    "gateway": {
        "auth": {"mode": "jwt", "jwks": "https://id.example.com/keys", "issuer": "x", "audience": "y"},
        "edge": {"externalSecrets": ["a", "b"], "targetGroup": "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/x/1"},
    },
    "nodes": {"selector": {"group": "x"}, "tolerations": [{"key": "group", "value": "x", "effect": "NoSchedule"}]},
}


def caught(name: str, scratch: Path) -> bool:
    """Plant it in a copy under `scratch`; whether helm refuses, a rule is broken, or somebody can reach or be reached by anybody.

    Raises:
        AssertionError: the place is not in the file (any more): the fault would plant nothing.
    """
    chart = scratch / "chart"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    file, there, instead = FAULTS[name]
    path = chart / "templates" / file
    text = path.read_text()
    assert there in text, f"{name}: {file} does not hold {there!r}"
    path.write_text(text.replace(there, instead))
    try:
        return any(_wrong(chart, mode) for mode in ("seldon", "plain"))
    except (HelmError, Unknown):
        return True


def _wrong(chart: Path, mode: str) -> bool:
    manifests = render(values(True, mode=mode, **GIVEN), chart=chart)
    return bool(broken(manifests)) or any("anybody" in flow[:2] for flow in flows(manifests))


def main(arguments: Sequence[str]) -> None:
    """Report; exits 1 when one is not caught."""
    chosen = list(arguments) or list(FAULTS)
    missed = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            if not caught(name, Path(scratch)):
                missed.append(name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults caught" + (f"; not: {', '.join(missed)}" if missed else ""))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
