#!/usr/bin/env bash
# One image: publish_image.sh build|publish IMAGE. Built by the same make target as anywhere, which also lists what is in it
# (SBOM), then scanned; `publish` also pushes it to REGISTRY/REPOSITORY/IMAGE, then signs and attests what the registry says its
# digest is: a tag can be moved. Into build/images: IMAGE.spdx.json, and IMAGE.digest with the full reference by digest.
set -euo pipefail
verb="${1-}" image="${2-}"
case "$verb" in build | publish) ;; *) echo 'say what to do: publish_image.sh build|publish IMAGE' >&2; exit 2 ;; esac
[ -n "$image" ] || { echo 'say which: publish_image.sh build|publish IMAGE' >&2; exit 2; }
commit="$(git rev-parse HEAD)"
export QUARRY_HOME="$PWD/build/home"
mkdir -p build/images
make images I="$image" TAG="$commit"
cp "$QUARRY_HOME/images/$image.spdx.json" build/images/
grype "sbom:build/images/$image.spdx.json" --fail-on high --only-fixed
[ "$verb" = publish ] || exit 0
name="${REGISTRY:?say which registry}/${REPOSITORY:?say under which name there}/$image"
docker tag "quarry/$image:$commit" "$name:$commit"
docker push --quiet "$name:$commit"
digest="$(docker inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$name:$commit" | grep -m1 "^$name@sha256:")"
cosign sign --yes "$digest"
cosign attest --yes --type spdxjson --predicate "build/images/$image.spdx.json" "$digest"
echo "$digest" > "build/images/$image.digest"
