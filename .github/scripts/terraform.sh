#!/usr/bin/env bash
# Infrastructure, one environment after another:
#   terraform.sh check              format, and every environment is valid; needs no account
#   terraform.sh plan ENVIRONMENT   into build/terraform/ENVIRONMENT.txt
#   terraform.sh apply ENVIRONMENT  plan, then exactly that plan
# TERRAFORM_BACKEND is the content of backend.hcl, as bootstrap prints it; TERRAFORM_VARIABLES that of the environment's
# terraform.tfvars. Neither holds a secret.
set -euo pipefail
verb="${1-}" environment="${2-}"
planned="$PWD/build/terraform"

initialise() { terraform -chdir="terraform/envs/$environment" init -input=false -lockfile=readonly "$@"; }
plan() {
  mkdir -p "$planned"
  printf '%s\n' "${TERRAFORM_BACKEND:?say where the state is: the content of backend.hcl}" > "$planned/backend.hcl"
  printf '%s\n' "${TERRAFORM_VARIABLES:?say what the environment is: the content of its terraform.tfvars}" > "$planned/$environment.tfvars"
  initialise -backend-config="$planned/backend.hcl"
  terraform -chdir="terraform/envs/$environment" plan -input=false -lock-timeout=5m -var-file="$planned/$environment.tfvars" -out="$planned/$environment.plan"
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
