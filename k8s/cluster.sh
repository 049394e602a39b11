#!/usr/bin/env bash
# Platform and images on one machine with Docker, ready for a release: cluster.sh. Run again, it goes on where it stood.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "make cluster needs docker, kind, kubectl and helm; $tool is not installed" >&2; exit 2; }
done
kind get clusters | grep -qx quarry || kind create cluster --config k8s/kind.yaml --wait 5m
kubectl config use-context kind-quarry >/dev/null
make images TAG=local
for name in gateway retriever reader ingestion; do kind load docker-image "quarry/$name:local" --name quarry; done
k8s/platform.sh kind
echo "next: put a release where the cluster reaches it (helm/quarry/README.md, Install), set artefacts.prefix in helm/quarry/values-local.yaml, then"
echo "make deploy RELEASE=id ENVIRONMENT=local, and make cluster-test"
