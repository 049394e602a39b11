#!/usr/bin/env bash
# The plans of all environments in one comment on a pull request, the last comment replaced: comment_plans.sh NUMBER FOLDER
# A comment holds 65,536 characters at most: of each plan the end is shown, where the summary stands.
set -euo pipefail
[ $# = 2 ] || { echo 'say where and what: comment_plans.sh NUMBER FOLDER' >&2; exit 2; }
comment="$(mktemp)"
trap 'rm -f "$comment"' EXIT
for plan in "$2"/*.txt; do
  echo "### Plan of $(basename "$plan" .txt)"
  echo '~~~'
  tail -c 20000 "$plan"
  echo '~~~'
done > "$comment"
gh pr comment "$1" --repo "$GITHUB_REPOSITORY" --body-file "$comment" --edit-last --create-if-none
