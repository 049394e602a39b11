# Quarry's only front door. `make help` lists the targets; docs/development.md explains them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export QUARRY_HOME ?= $(CURDIR)/.quarry
TOOLS := $(CURDIR)/.tools
UV := $(TOOLS)/uv/bin/uv
UV_VERSION := 0.13.9
# uv reads its own variables only. Without a local folder of wheels, take torch's CPU build.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifeq ($(strip $(UV_FIND_LINKS)),)
export UV_TORCH_BACKEND ?= cpu
endif
export UV_CACHE_DIR ?= $(TOOLS)/uv-cache
export PYTHONDONTWRITEBYTECODE :=

PROJECTS := services/contract services/runtime services/retriever services/reader services/gateway \
            pipelines/ingestion pipelines/training pipelines/kubeflow
P ?= $(PROJECTS)

##@ Working on it

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z_-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	python3 -m venv $(TOOLS)/uv && $(TOOLS)/uv/bin/pip install --quiet uv==$(UV_VERSION)

# One environment per project, from its own lock; the sibling projects it names come from the clone.
%/.venv/.ready: %/requirements.lock %/pyproject.toml %/.python-version | $(UV)
	cd $* && $(UV) venv --quiet --clear --python $$(cat .python-version) .venv
	cd $* && $(UV) pip install --quiet --compile-bytecode -r requirements.lock -e '.[dev]'
	@touch $@

envs: $(P:%=%/.venv/.ready) ## Environments of all projects, or of P="services/reader"

lock: | $(UV) ## Resolve the pinned requirements of all projects, or of P, anew
	for p in $(P); do (cd $$p && $(UV) pip compile --quiet --no-header --no-emit-index-url --no-emit-find-links --python-version $$(cat .python-version) \
	  --no-emit-package quarry-contract --no-emit-package quarry-runtime --extra dev pyproject.toml -o requirements.lock && sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock); done

.PHONY: help envs lock
