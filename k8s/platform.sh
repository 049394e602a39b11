#!/usr/bin/env bash
# What surrounds the chart, onto the cluster of the current context: platform.sh kind|staging|production [RELEASE...]
# Run again, it changes only what differs. With release names, only those charts: so comes what charts.txt marks `named`.
# On kind WITHOUT leaves parts out: words of `airflow kubeflow logging prometheus seldon-core`.
set -euo pipefail
cd "$(dirname "$0")"
overlay="${1:-}"; shift || true
test -d "overlays/$overlay" -a -n "$overlay" || { echo "say which platform: platform.sh kind|staging|production" >&2; exit 2; }
only=" $* "
without=" ${WITHOUT:-} "
if [ "$overlay" != kind ]; then without=" "; fi
for part in $without; do
  case "$part" in airflow|kubeflow|logging|prometheus|seldon-core) ;; *) echo "WITHOUT knows airflow, kubeflow, logging, prometheus and seldon-core; not $part" >&2; exit 2 ;; esac
done
left_out() { [[ "$without" == *" $1 "* ]]; }
if [ -z "${*:-}" ] && [ "$overlay" = kind ] && [ ! -s overlays/kind/release.env ]; then
  echo "which release is live is missing: make cluster writes it into k8s/overlays/kind/release.env" >&2
  exit 2
fi
if [ -z "${*:-}" ] && [ "$overlay" != kind ] && [ ! -s "overlays/$overlay/account.env" ]; then
  echo "what MLflow has to know of the account is missing: terraform -chdir=terraform/envs/$overlay output -raw platform > k8s/overlays/$overlay/account.env" >&2
  exit 2
fi

values() { # the files of a release that exist, as helm's arguments
  for file in "values/$1.yaml" "values/$1-$overlay.yaml"; do
    if test -f "$file"; then printf -- '--values %s ' "$file"; fi
  done
}

charts() { # the lines of charts.txt for this overlay
  grep -vE '^(#|$)' charts.txt | while read -r release namespace chart repository version overlays when; do
    case ",$overlays," in *",$overlay,"*) echo "$release $namespace $chart $repository $version $when" ;; esac
  done
}

if [ -z "${*:-}" ]; then kubectl apply --server-side -k base; fi
charts | while read -r release namespace chart repository version when; do
  if [ "$only$when" != "  " ] && [[ "$only" != *" $release "* ]]; then continue; fi
  part="$release"; if [ "$release" = eck ]; then part=logging; fi
  if left_out "$part"; then continue; fi
  # shellcheck disable=SC2046 # the arguments are words
  helm upgrade --install "$release" "$chart" --repo "$repository" --version "$version" --namespace "$namespace" $(values "$release") --wait --timeout 15m </dev/null
done
if [ -z "${*:-}" ]; then
  if ! left_out kubeflow; then
    kubectl apply --server-side -k "https://github.com/kubeflow/pipelines//manifests/kustomize/cluster-scoped-resources?ref=2.17.0"
    kubectl wait --for condition=established --timeout=120s crd/applications.app.k8s.io
    kubectl apply --server-side -k components/kubeflow
    kubectl apply --server-side -k components/trainer
  fi
  logging=components/logging; if test -d "overlays/$overlay/logging"; then logging="overlays/$overlay/logging"; fi
  if ! left_out logging; then kubectl apply --server-side -k "$logging"; fi
  kubectl apply --server-side -k "overlays/$overlay"
fi
