#!/usr/bin/env bash
# The compiled pipelines onto the cluster's Kubeflow server: a version per content, so that the same YAML is uploaded once.
set -euo pipefail
# shellcheck disable=SC2016 # FORWARDED is known only inside
"$(dirname "$0")/forwarded.sh" kubeflow svc/ml-pipeline 8888 bash -c 'make upload-pipelines KFP_HOST="$FORWARDED"'
