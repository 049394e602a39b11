#!/usr/bin/env bash
# Run a command while a service of the cluster is reachable here: forwarded.sh NAMESPACE SERVICE PORT COMMAND...
# The command finds the address in $FORWARDED.
set -euo pipefail
[ $# -ge 4 ] || { echo 'say what to reach, and what for: forwarded.sh NAMESPACE SERVICE PORT COMMAND...' >&2; exit 2; }
namespace="$1" service="$2" port="$3"
shift 3
log="$(mktemp)"
kubectl --namespace "$namespace" port-forward "$service" ":$port" > "$log" 2>&1 &
forward=$!
trap 'kill "$forward" 2>/dev/null || true; rm -f "$log"' EXIT
here=
for _ in $(seq 120); do
  here="$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$log")"
  [ -z "$here" ] || break
  kill -0 "$forward" 2>/dev/null || break
  sleep 0.25
done
[ -n "$here" ] || { echo "$service in $namespace cannot be reached: $(cat "$log")" >&2; exit 1; }
FORWARDED="http://127.0.0.1:$here" "$@"
