#!/usr/bin/env bash
# Quarry on one machine with Docker: a kind cluster, images, platform, the live release of QUARRY_HOME (made by `make demo` where there is none), by
# way of the cluster's own object store, and the sample documents. Run again, it goes on where it stood.
# WITHOUT="airflow kubeflow logging prometheus seldon-core", or some of them, leaves these out.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "make cluster needs docker, kind, kubectl and helm; $tool is not installed" >&2; exit 2; }
done
export WITHOUT="${WITHOUT:-}"
for part in $WITHOUT; do
  case "$part" in airflow|kubeflow|logging|prometheus|seldon-core) ;; *) echo "WITHOUT knows airflow, kubeflow, logging, prometheus and seldon-core; not $part" >&2; exit 2 ;; esac
done
left_out() { [[ " $WITHOUT " == *" $1 "* ]]; }
make envs P="services/contract pipelines/ingestion"
live() { services/contract/.venv/bin/python local/stack.py releases 2>/dev/null | sed -n 's/^\* \([0-9a-f]*\).*/\1/p'; }
if [ -z "$(live)" ]; then make demo && make down; fi
release="$(live)" # before the cluster takes port 8080
kind get clusters | grep -qx quarry || kind create cluster --config k8s/kind.yaml --wait 5m
kubectl config use-context kind-quarry >/dev/null
images="gateway retriever reader ingestion training"
if ! left_out airflow; then images="$images airflow"; fi
make images TAG=local I="$images"
for name in $images; do kind load docker-image "quarry/$name:local" --name quarry; done
echo "QUARRY_RELEASE=$release" > k8s/overlays/kind/release.env # whose retriever Airflow encodes with
k8s/platform.sh kind

# Secrets are made here and are nowhere but in the cluster. What a volume or a table was made with is made once.
secret() { # NAMESPACE NAME, from lines KEY=value
  kubectl --namespace "$1" create secret generic "$2" --from-env-file=/dev/stdin --dry-run=client --output=yaml | kubectl apply --server-side --filename -
}
once() {
  local found
  found="$(kubectl --namespace "$1" get secret "$2" --ignore-not-found --output=name)" || exit 1
  if [ -z "$found" ]; then secret "$1" "$2"; fi
}
random() { head -c "$1" /dev/urandom | base64 | tr '+/' '-_'; }
password() { kubectl --namespace database get secret postgres --output="jsonpath={.data.$1}" | base64 --decode; }
once database postgres <<SECRET
POSTGRES_PASSWORD=$(random 24)
MLFLOW_PASSWORD=$(random 24)
AIRFLOW_PASSWORD=$(random 24)
SECRET
secret mlflow mlflow-database <<SECRET
username=mlflow
password=$(password MLFLOW_PASSWORD)
SECRET
for namespace in quarry mlflow; do # the store asks for keys and takes any
  secret "$namespace" object-store <<SECRET
AWS_ACCESS_KEY_ID=any
AWS_SECRET_ACCESS_KEY=any
SECRET
done
if ! left_out airflow; then
  once quarry airflow <<SECRET
connection=postgresql://airflow:$(password AIRFLOW_PASSWORD)@postgres.database:5432/airflow?sslmode=disable
connection-async=postgresql+asyncpg://airflow:$(password AIRFLOW_PASSWORD)@postgres.database:5432/airflow?ssl=disable
fernet-key=$(random 32)
api-secret-key=$(random 24)
jwt-secret=$(random 24)
SECRET
fi
kubectl --namespace database rollout status deployment/postgres --timeout=10m
kubectl --namespace quarry rollout status deployment/object-store --timeout=5m
kubectl --namespace quarry port-forward service/object-store 8333 >/dev/null &
trap 'kill %1' EXIT
export AWS_ENDPOINT_URL=http://127.0.0.1:8333 AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
python=pipelines/ingestion/.venv/bin/python
"$python" k8s/bucket.py quarry examples/documents documents/
"$python" -m quarry_ingestion.artefacts push "$release" --home "${QUARRY_HOME:-.quarry}" --to s3://quarry/releases
{ # what the values of the chart say otherwise where a part is left out; `make deploy ENVIRONMENT=local` reads it
  echo "# Written by k8s/cluster.sh: WITHOUT=\"$WITHOUT\""
  if left_out airflow; then echo 'ingestion: { source: "s3://quarry/documents/" }'; fi
  if left_out prometheus; then echo 'monitoring: { podMonitor: false }'; fi
  if left_out seldon-core; then echo 'mode: plain'; fi
} > helm/quarry/values-local-account.yaml
if left_out airflow; then helm uninstall airflow --namespace quarry --ignore-not-found; fi # else two would write on a schedule
make deploy RELEASE="$release" ENVIRONMENT=local

# The documents into the index: by Airflow, or by the chart's job in its place.
run="cluster-$(date +%s)"
if left_out airflow; then
  kubectl --namespace quarry create job "$run" --from=cronjob/quarry-collect
  kubectl --namespace quarry wait --for=condition=complete --timeout=15m "job/$run"
else
  k8s/platform.sh kind airflow
  airflow() { kubectl --namespace quarry exec deployment/airflow-scheduler --container=scheduler -- python3 -m airflow dags "$@"; }
  kubectl --namespace quarry rollout status deployment/airflow-scheduler --timeout=15m
  tries=0
  until airflow trigger quarry_ingest --run-id "$run" --conf '{"wait": false}'; do # the DAG processor reads the file some time after it has started
    tries=$((tries + 1)); if [ "$tries" = 30 ]; then echo "Airflow does not know quarry_ingest: kubectl -n quarry logs deploy/airflow-dag-processor" >&2; exit 1; fi
    sleep 10
  done
  tries=0
  until airflow list-runs quarry_ingest --state success --output plain | grep -q "$run"; do
    tries=$((tries + 1))
    if [ "$tries" = 90 ] || airflow list-runs quarry_ingest --state failed --output plain | grep -q "$run"; then
      echo "Airflow has not brought the documents in: kubectl -n quarry logs deploy/airflow-scheduler -c scheduler" >&2; exit 1
    fi
    sleep 10
  done
fi
echo "ask it: make cluster-test, or http://127.0.0.1:8080/docs"
