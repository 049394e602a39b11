#!/usr/bin/env bash
# A whole Quarry on one machine with Docker: cluster.sh. Run again, it goes on where it stood.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "make cluster needs docker, kind, kubectl and helm; $tool is not installed" >&2; exit 2; }
done
kind get clusters | grep -qx quarry || kind create cluster --config k8s/kind.yaml --wait 5m
kubectl config use-context kind-quarry >/dev/null
make images TAG=local
for name in gateway retriever reader ingestion training airflow; do kind load docker-image "quarry/$name:local" --name quarry; done
k8s/platform.sh kind
helm upgrade --install quarry helm/quarry --namespace quarry --values helm/quarry/values-local.yaml --wait --timeout 15m
echo "ask it: make cluster-test, or http://127.0.0.1:8080/docs"
