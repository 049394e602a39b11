#!/usr/bin/env bash
# One step of a release on the cluster, each by the chart's make targets:
#   rollout.sh canary RELEASE SHARE     the candidate answers that share of the callers
#   rollout.sh watch RELEASE LIVE       exit 0 only when it kept its service levels; what was seen: build/rollout/slo.json
#   rollout.sh promote RELEASE          it answers everyone, the old one goes
#   rollout.sh revert LIVE              the live release answers everyone again, the candidate goes
# Before the first, `release_ids.py COMMIT --prepare` lets them start from what runs.
# ENVIRONMENT (production unless set) chooses the chart's values; WATCH_MINUTES, how long to watch.
set -euo pipefail
# They would reach make by the environment too, and only the canary has a share.
unset SHARE MIRROR BACK
verb="${1-}" release="${2-}"
[ -n "$release" ] || { echo 'say what of which: rollout.sh canary|watch|promote|revert RELEASE ...' >&2; exit 2; }
environment="${ENVIRONMENT:-production}"
deploy() {
  local release="$1"
  shift
  make deploy ENVIRONMENT="$environment" RELEASE="$release" "$@"
}
case "$verb" in
  canary) deploy "$release" SHARE="${3:?say the share of callers}" ;;
  promote | revert) deploy "$release" ;;
  watch)
    mkdir -p build/rollout
    # shellcheck disable=SC2016 # FORWARDED is known only inside
    "$(dirname "$0")/forwarded.sh" monitoring svc/prometheus-operated 9090 bash -c \
      'make canary-watch PROMETHEUS="$FORWARDED" RELEASE="$1" LIVE_RELEASE="$2" WATCH="--minutes $3"' \
      watch "$release" "${3:?say which release is live}" "${WATCH_MINUTES:-30}" > build/rollout/slo.json
    ;;
  *) echo "rollout.sh does not know $verb: canary, watch, promote or revert" >&2; exit 2 ;;
esac
