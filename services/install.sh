#!/bin/sh
# Inside an image's build: install.sh PROJECT[extra] [SIBLING...] puts the project, our packages it needs and their locked packages into /app.
# Where packages come from is told by two optional secrets, which stay out of the image: `index` (lines of NAME=value for pip
# and uv) and `ca` (certificates to trust), and by a folder of wheels at /wheels. The lock constrains: development packages are in it, and
# are not asked for. TARGET puts them elsewhere. Where the pipelines' lock is, kfp comes too: its executor runs a step, without kfp's dependencies.
set -eu
if [ -f /run/secrets/index ]; then set -a; . /run/secrets/index; set +a; fi
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi
if [ -n "$(ls -A /wheels 2>/dev/null)" ]; then export UV_FIND_LINKS=/wheels; unset UV_TORCH_BACKEND; fi
export UV_CACHE_DIR=/cache UV_LINK_MODE=copy PIP_ROOT_USER_ACTION=ignore
uv="/cache/uv-$UV_VERSION" # whole, or not there
if [ ! -d "$uv" ]; then
  mkdir -p /cache && made=$(mktemp -d /cache/uv.XXXXXX)
  python3 -m pip install --quiet --disable-pip-version-check --cache-dir /cache/pip --target "$made" "uv==$UV_VERSION"
  mv -T "$made" "$uv" || rm -r "$made" # another build was first
fi
target="${TARGET:-/app}" lock="${1%%\[*}/requirements.lock" steps=pipelines/kubeflow/requirements.lock
install() { "$uv/bin/uv" pip install --quiet --python python3 --target "$target" --no-sources --compile-bytecode "$@"; }
for project in "$@"; do set -- "$@" "./$project"; shift; done
install --constraint "$lock" "$@"
if [ -f "$steps" ]; then while read -r line; do case "$line" in kfp==*) install --no-deps "$line" ;; esac; done <"$steps"; fi
rm -rf "${target:?}/bin" "$target/.lock"
