#!/bin/sh
# Inside an image's build: install.sh PROJECT[extra] [SIBLING...] puts the project, our packages it needs and their locked packages into /app.
# Where packages come from is told by two optional secrets, which stay out of the image: `index` (lines of NAME=value for pip
# and uv) and `ca` (certificates to trust). The lock constrains: development packages are in it, and are not asked for.
set -eu
if [ -f /run/secrets/index ]; then set -a; . /run/secrets/index; set +a; fi
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca; fi
export UV_CACHE_DIR=/cache UV_LINK_MODE=copy PIP_ROOT_USER_ACTION=ignore
uv="/cache/uv-$UV_VERSION" # whole, or not there
if [ ! -d "$uv" ]; then
  mkdir -p /cache && made=$(mktemp -d /cache/uv.XXXXXX)
  python3 -m pip install --quiet --disable-pip-version-check --cache-dir /cache/pip --target "$made" "uv==$UV_VERSION"
  mv -T "$made" "$uv" || rm -r "$made" # another build was first
fi
lock="${1%%\[*}/requirements.lock"
for project in "$@"; do set -- "$@" "./$project"; shift; done
"$uv/bin/uv" pip install --quiet --python python3 --target /app --no-sources --compile-bytecode --constraint "$lock" "$@"
rm -rf /app/bin /app/.lock
