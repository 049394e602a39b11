#!/usr/bin/env bash
# Quarry on one machine with Docker: a kind cluster, images, platform, and the live release of QUARRY_HOME (made by `make demo` where there is
# none), by way of the cluster's own object store. Run again, it goes on where it stood.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "make cluster needs docker, kind, kubectl and helm; $tool is not installed" >&2; exit 2; }
done
make envs P="services/contract pipelines/ingestion"
live() { services/contract/.venv/bin/python local/stack.py releases 2>/dev/null | sed -n 's/^\* \([0-9a-f]*\).*/\1/p'; }
if [ -z "$(live)" ]; then make demo && make down; fi
release="$(live)" # before the cluster takes port 8080
kind get clusters | grep -qx quarry || kind create cluster --config k8s/kind.yaml --wait 5m
kubectl config use-context kind-quarry >/dev/null
make images TAG=local I="gateway retriever reader ingestion training"
for name in gateway retriever reader ingestion training; do kind load docker-image "quarry/$name:local" --name quarry; done
k8s/platform.sh kind
kubectl --namespace quarry create secret generic object-store --from-literal=AWS_ACCESS_KEY_ID=any --from-literal=AWS_SECRET_ACCESS_KEY=any \
  --dry-run=client --output=yaml | kubectl apply --server-side --filename -
kubectl --namespace quarry rollout status deployment/object-store --timeout=5m
kubectl --namespace quarry port-forward service/object-store 8333 >/dev/null &
trap 'kill %1' EXIT
export AWS_ENDPOINT_URL=http://127.0.0.1:8333 AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
python=pipelines/ingestion/.venv/bin/python
"$python" k8s/bucket.py quarry
"$python" -m quarry_ingestion.artefacts push "$release" --home "${QUARRY_HOME:-.quarry}" --to s3://quarry/releases
make deploy RELEASE="$release" ENVIRONMENT=local
echo "ask it: make cluster-test, or http://127.0.0.1:8080/docs"
