#!/usr/bin/env bash
# Infrastructure, one environment after another:
#   terraform.sh check              format, and every environment is valid; needs no account
#   terraform.sh plan ENVIRONMENT   into build/terraform/ENVIRONMENT.txt
#   terraform.sh apply ENVIRONMENT  plan, then exactly that plan
# STATE_BUCKET names the S3 bucket of the state.
set -euo pipefail
verb="${1-}" environment="${2-}"
planned="$PWD/build/terraform"

initialise() { terraform -chdir="terraform/envs/$environment" init -input=false -lockfile=readonly "$@"; }
plan() {
  initialise -backend-config="bucket=${STATE_BUCKET:?say in which bucket the state is}"
  mkdir -p "$planned"
  terraform -chdir="terraform/envs/$environment" plan -input=false -lock-timeout=5m -out="$planned/$environment.plan"
  terraform -chdir="terraform/envs/$environment" show -no-color "$planned/$environment.plan" > "$planned/$environment.txt"
}

case "$verb" in
  check)
    terraform fmt -check -diff -recursive terraform
    for folder in terraform/envs/*/; do
      environment="$(basename "$folder")"
      initialise -backend=false
      terraform -chdir="terraform/envs/$environment" validate
    done
    ;;
  plan | apply)
    [ -d "terraform/envs/$environment" ] || { echo "there is no environment '$environment' in terraform/envs" >&2; exit 2; }
    plan
    [ "$verb" = plan ] || terraform -chdir="terraform/envs/$environment" apply -input=false -lock-timeout=5m "$planned/$environment.plan"
    ;;
  *) echo "terraform.sh does not know '$verb': check, plan or apply" >&2; exit 2 ;;
esac
