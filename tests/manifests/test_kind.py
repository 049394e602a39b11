"""A laptop's cluster: what stands in it, who speaks to whom there, what it asks for, and `cluster.sh` with docker, kind, kubectl, helm and make recorded."""

import copy
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .chart import CHART, CLONE, HELM, workloads
from .crossing import crossing
from .laptop import SOURCE, laptop, laptop_flows, pods
from .memory import given, requests, table
from .overlays import CLUSTER, K8S, RELEASE, cluster_secrets, everything, named, needs_kubectl, pod_of

MLFLOW, STORE, DATABASE = ("mlflow", 5000), ("object-store", 8333), ("postgres", 5432)
FETCHES = ("retriever", "reader", "ingestion", "collect", "reconcile")
pytestmark = [needs_kubectl, pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")]


def test_the_flows_on_a_laptop_are_these_and_no_others() -> None:
    inside = {
        (one, other, port)
        for one in ("elasticsearch", "kibana", "eck")
        for other, port in (("elasticsearch", 9200), ("elasticsearch", 9300), ("kibana", 5601))
        if one != other
    }
    assert laptop_flows() == inside | {
        ("filebeat", "elasticsearch", 9200),
        ("mlflow", *DATABASE),
        ("mlflow", *STORE),
        *((component, *DATABASE) for component in ("scheduler", "dag-processor", "api-server", "run-airflow-migrations")),
        ("scheduler", "api-server", 8080),
        ("scheduler", "ml-pipeline", 8888),
        ("scheduler", *STORE),
        ("step", "ml-pipeline", 8888),
        *((one, *MLFLOW) for one in ("step", "ml-pipeline")),  # the namespace of those who train and judge
        *((component, *STORE) for component in FETCHES),
        ("gateway", "retriever", 9000),
        ("gateway", "reader", 9000),
        ("gateway", "ingestion", 9004),
        ("test", "gateway", 8080),
        *(("prometheus", *to) for to in (("gateway", 8080), ("retriever", 9000), ("reader", 9000), ("ingestion", 9004))),
    }


# name: (kind, name, path in the object, what is put there instead)
FAULTS: dict[str, tuple[str, str, tuple[str | int, ...], Any]] = {
    "MLflow open to all": ("NetworkPolicy", "mlflow", ("spec", "ingress", 0), {}),
    "the database open at any name": ("NetworkPolicy", "postgres", ("spec", "ingress", 0, "from", 0, "namespaceSelector"), {}),
    "Airflow's way to the database lost": ("NetworkPolicy", "airflow", ("spec", "egress", 1, "ports", 0, "port"), 5433),
    "MLflow's way to the store lost": ("NetworkPolicy", "object-store", ("spec", "ingress", 0, "from", 2, "namespaceSelector", "matchLabels"), {"x": "y"}),
    "lines from everywhere": ("NetworkPolicy", "lines-from-node-agents", ("spec", "ingress", 0, "from"), [{"namespaceSelector": {}}]),
    "the closed namespace opened": ("NetworkPolicy", "postgres", ("spec", "podSelector"), {"matchLabels": {"a": "b"}}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_changes_the_flows(name: str) -> None:
    kind, called, path, instead = FAULTS[name]
    sound = (*everything("kind"), *laptop())
    faulty = copy.deepcopy(sound)
    [place] = (m for m in faulty if (m["kind"], m["metadata"]["name"]) == (kind, called))
    for step in path[:-1]:
        place = place[step]
    assert place[path[-1]] != instead
    place[path[-1]] = instead
    assert crossing(list(pods()), faulty) != crossing(list(pods()), sound)


def test_the_quotas_have_room_for_all_that_runs() -> None:
    """Requests, limits, claims and node ports of a namespace, a second release and a job beside it."""
    [quota] = (m["spec"]["hard"] for m in named(everything("kind"), "ResourceQuota") if m["metadata"]["name"] == "quarry")
    manifests = [*laptop(candidate=True), *(m for m in everything("kind") if m["metadata"].get("namespace") == "quarry")]
    containers = [(w.pod["containers"][0]["resources"]) for w in workloads(manifests)]
    containers += [given("airflow")[name]["resources"] for name in ("scheduler", "dagProcessor", "apiServer", "migrateDatabaseJob")]
    asked = [requests(resources) for resources in containers]
    limits = [requests({"requests": {"cpu": 0, "memory": resources["limits"]["memory"]}})[1] for resources in containers]
    used = Counter(m["kind"] for m in manifests)
    ports = [m for m in manifests if m["kind"] == "Service" and m["spec"].get("type") == "NodePort"]
    assert sum(cpu for cpu, _ in asked) <= float(quota["requests.cpu"])
    assert sum(memory for _, memory in asked) <= float(quota["requests.memory"].removesuffix("Gi"))
    assert sum(limits) <= float(quota["limits.memory"].removesuffix("Gi"))
    assert used["PersistentVolumeClaim"] <= int(quota["persistentvolumeclaims"])
    assert len(ports) == int(quota["services.nodeports"]) == 1
    [port] = ports[0]["spec"]["ports"]
    [mapped] = yaml.safe_load((K8S / "kind.yaml").read_text())["nodes"][0]["extraPortMappings"]
    assert port["nodePort"] == mapped["containerPort"]


def test_the_readme_has_the_sum_that_is_computed() -> None:
    assert table() in (K8S / "README.md").read_text(), "python -m manifests.memory prints it"


def test_one_elasticsearch_whose_heap_is_half_of_what_it_may_have() -> None:
    [search] = named(everything("kind"), "Elasticsearch")
    [nodes] = search["spec"]["nodeSets"]
    [container] = nodes["podTemplate"]["spec"]["containers"]
    assert nodes["count"] == 1
    assert container["env"] == [{"name": "ES_JAVA_OPTS", "value": "-Xms512m -Xmx512m"}]
    assert requests(container["resources"])[1] >= 1
    assert next(named(everything("staging"), "Elasticsearch"))["spec"]["nodeSets"][0]["count"] == 3


def test_ecks_chart_is_not_told_to_do_what_it_may_not() -> None:
    """Its validate-chart.yaml fails where cluster-scoped resources are off and these are on."""
    told = yaml.safe_load((K8S / "values/eck.yaml").read_text())
    assert (told["createClusterScopedResources"], told["webhook"]["enabled"], told["config"]["validateStorageClass"]) == (False, False, False)
    assert told["podSecurityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert (told["securityContext"]["allowPrivilegeEscalation"], told["securityContext"]["capabilities"]) == (False, {"drop": ["ALL"]})


def test_airflows_scheduler_stands_beside_ingestion_and_fetches_as_collect_would() -> None:
    manifests = laptop(ingestion=SOURCE)
    pod = {w.component: w.pod for w in workloads(manifests)}
    own = given("airflow")["scheduler"]
    assert own["affinity"] == pod["ingestion"]["affinity"]
    assert not {"nodeSelector"} & (own.keys() | pod["ingestion"].keys()) and not own["tolerations"] and "tolerations" not in pod["ingestion"]
    assert own["serviceAccount"] == {"create": False, "name": pod["ingestion"]["serviceAccountName"], "automountServiceAccountToken": False}
    [home] = (v for v in own["extraVolumes"] if v["name"] == "home")
    assert home in pod["ingestion"]["volumes"]
    [theirs], [fetch] = pod["collect"]["initContainers"], own["extraInitContainers"]
    assert fetch["args"] == [{theirs["args"][1]: "$(QUARRY_RELEASE)", theirs["args"][4]: "$(QUARRY_RELEASES)"}.get(word, word) for word in theirs["args"]]
    [keys] = theirs["envFrom"]
    assert {"secretRef": {**keys["secretRef"], "optional": True}} in fetch["envFrom"]
    [config] = (m for m in named(everything("kind"), "ConfigMap") if m["metadata"]["name"] == "airflow")
    assert {v["name"]: v["value"] for v in theirs["env"]}.items() <= config["data"].items()
    assert config["data"]["QUARRY_RELEASE"] == RELEASE.strip().partition("=")[2]
    assert config["data"]["QUARRY_RELEASES"] == yaml.safe_load((CHART / "values-local.yaml").read_text())["artefacts"]["prefix"]
    image = given("airflow")["images"]["airflow"]
    assert image == {"repository": "quarry/airflow", "tag": "local", "pullPolicy": "Never"}
    assert not [m for m in laptop() if m["kind"] == "CronJob" and m["metadata"]["name"] == "quarry-collect"], "one writer on a schedule"


def test_the_dag_can_be_parsed_with_a_laptops_settings() -> None:
    source = CLONE / "pipelines/airflow/src/quarry_airflow/settings.py"
    spec = importlib.util.spec_from_file_location("quarry_airflow_settings_kind", source)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    [config] = (m for m in named(everything("kind"), "ConfigMap") if m["metadata"]["name"] == "airflow")
    read = module.Settings.from_environment({**config["data"], **{v["name"]: v["value"] for v in yaml.safe_load(given("airflow")["extraEnv"])}})
    assert (read.source, read.home, read.model_dir) == ("s3://quarry/documents/", "/mnt/home", "/mnt/models")


def test_airflows_secret_has_the_keys_that_its_values_name() -> None:
    told = given("airflow")
    [asynchronous] = told["secret"]
    assert cluster_secrets()["quarry", told["data"]["metadataSecretName"]] == {
        "connection",
        asynchronous["secretKey"],
        "fernet-key",
        "api-secret-key",
        "jwt-secret",
    }
    [service] = (m for m in named(everything("kind"), "Service") if m["metadata"]["name"] == "postgres")
    addresses = re.findall(r"^connection\S*=.+@([\w.]+):(\d+)/airflow\?\S+$", CLUSTER.read_text(), re.MULTILINE)
    assert addresses == [(f"postgres.{service['metadata']['namespace']}", str(service["spec"]["ports"][0]["port"]))] * 2


STUB = r"""#!/bin/bash
name="$(basename "$0")"; [ "$name" = python ] && name="$STUB_NAME"
echo "$name $*" >> "$LOG"
case "$name $*" in
  "kubectl "*" create secret "*) sed "s|^|$2 $6 |" /dev/stdin >> "$LOG.secrets" ;;
  *"jsonpath="*) all="$*"; printf 'pw-%s' "${all##*.}" | tr -d '}' | base64 ;;
  *" get secret "*"--output=name") grep -q "^$2 $5 " "$LOG.before" 2>/dev/null && echo "secret/$6"; true ;;
  *"port-forward"*) exec sleep 60 ;;
  *"list-runs"*" success "*) echo "quarry_ingest | $(grep -o 'cluster-[0-9]*' "$LOG" | tail -1) | success" ;;
  "contract local/stack.py releases"*) echo "* f8d74ec1693a live" ;;
  "kubectl "*" apply "*--filename*) cat > /dev/null ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A clone with cluster.sh, and every program that it calls as one that writes down how it was called."""
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("release.env"))
    (tmp_path / "helm/quarry").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("docker", "kind", "kubectl", "helm", "make"):
        (tmp_path / "bin" / name).write_text(STUB)
    for name, project in {"contract": "services/contract", "ingestion": "pipelines/ingestion"}.items():
        folder = tmp_path / project / ".venv/bin"
        folder.mkdir(parents=True)
        (folder / "python").write_text(STUB.replace("$STUB_NAME", name))
    for path in (*tmp_path.glob("bin/*"), *tmp_path.glob("*/*/.venv/bin/python")):
        path.chmod(0o755)
    return tmp_path, {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "LOG": str(tmp_path / "calls")}


def cluster(machine: tuple[Path, dict[str, str]], without: str = "") -> tuple[int, str, list[str], dict[tuple[str, str], dict[str, str]]]:
    """Run it; its status, what it said to standard error, the calls in order, and the secrets that it made."""
    folder, environment = machine
    for left in (folder / "calls", folder / "calls.secrets"):
        left.unlink(missing_ok=True)
    done = subprocess.run([str(folder / "k8s/cluster.sh")], env=environment | {"WITHOUT": without}, capture_output=True, text=True, timeout=120)
    made: dict[tuple[str, str], dict[str, str]] = {}
    if (folder / "calls.secrets").exists():
        for line in (folder / "calls.secrets").read_text().splitlines():
            namespace, name, pair = line.split(" ", 2)
            made.setdefault((namespace, name), {})[pair.split("=", 1)[0]] = pair.split("=", 1)[1]
    return done.returncode, done.stderr, (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else [], made


def order(calls: list[str], *wanted: str) -> list[str]:
    """Of `wanted` those that came, in the order of their first call."""
    return sorted((w for w in wanted if any(w in call for call in calls)), key=lambda w: next(i for i, call in enumerate(calls) if w in call))


def test_one_command_makes_everything_in_its_order(machine: tuple[Path, dict[str, str]]) -> None:
    status, said, calls, made = cluster(machine)
    assert (status, said) == (0, ""), calls
    steps = (
        "kind create cluster",
        "kubectl config use-context kind-quarry",
        "make images TAG=local I=gateway retriever reader ingestion training airflow",
        "kind load docker-image quarry/airflow:local",
        "kubectl apply --server-side -k base",
        "helm upgrade --install eck ",
        "kubectl apply --server-side -k overlays/kind/logging",
        "rollout status deployment/postgres",
        "ingestion k8s/bucket.py quarry examples/documents documents/",
        "ingestion -m quarry_ingestion.artefacts push f8d74ec1693a",
        "make deploy RELEASE=f8d74ec1693a ENVIRONMENT=local",
        "helm upgrade --install airflow airflow --repo https://airflow.apache.org --version 1.22.0 --namespace quarry "
        "--values values/airflow.yaml --values values/airflow-kind.yaml",
        "airflow dags trigger quarry_ingest",
        "airflow dags list-runs quarry_ingest",
    )
    assert order(calls, *steps) == list(steps)
    assert {secret: set(keys) for secret, keys in made.items()} == cluster_secrets()
    folder = machine[0]
    assert (folder / "k8s/overlays/kind/release.env").read_text() == RELEASE
    assert yaml.safe_load((folder / "helm/quarry/values-local-account.yaml").read_text()) is None


def test_secrets_are_new_on_each_laptop_and_made_once(machine: tuple[Path, dict[str, str]]) -> None:
    folder, _ = machine
    first, second = cluster(machine)[3], cluster(machine)[3]
    random = {
        key: value for secret in (("database", "postgres"), ("quarry", "airflow")) for key, value in first[secret].items() if not key.startswith("connection")
    }
    assert all(re.fullmatch(r"[\w-]{32}|[\w-]{43}=", value) for value in random.values())
    assert len(set(random.values())) == len(random)
    assert all(first["database", "postgres"][key] != second["database", "postgres"][key] for key in first["database", "postgres"])
    assert first["mlflow", "mlflow-database"] == {"username": "mlflow", "password": "pw-MLFLOW_PASSWORD"}, "what the database was made with, read back"
    shutil.copy(folder / "calls.secrets", folder / "calls.before")
    assert cluster(machine)[3].keys() == first.keys() - {("database", "postgres"), ("quarry", "airflow")}
    written = "".join(p.read_text(errors="replace") for p in (*folder.glob("k8s/**/*"), *folder.glob("helm/**/*")) if p.is_file())
    assert not [value for value in random.values() if value in written]


def test_what_is_left_out_is_not_made_and_the_chart_does_it_itself(machine: tuple[Path, dict[str, str]]) -> None:
    status, said, calls, made = cluster(machine, "airflow logging prometheus seldon-core kubeflow")
    assert (status, said) == (0, "")
    gone = "helm uninstall airflow --namespace quarry --ignore-not-found"
    assert order(calls, gone, "make deploy") == [gone, "make deploy"], "one writer on a schedule"
    assert not [call for call in calls if call != gone and re.search(r"airflow|install eck|logging|install prometheus|install seldon|kubeflow", call)]
    assert ("quarry", "airflow") not in made
    assert any("create job cluster-" in call and "--from=cronjob/quarry-collect" in call for call in calls)
    told = yaml.safe_load((machine[0] / "helm/quarry/values-local-account.yaml").read_text())
    manifests = laptop(**told)
    assert {"SeldonDeployment", "PodMonitor"}.isdisjoint({m["kind"] for m in manifests})
    assert any(m["metadata"]["name"] == "quarry-collect" for m in manifests if m["kind"] == "CronJob")


def test_a_part_that_nobody_knows_is_refused_before_anything_is_called(machine: tuple[Path, dict[str, str]]) -> None:
    status, said, calls, _ = cluster(machine, "airflow elk")
    assert (status, calls) == (2, [])
    assert said == "WITHOUT knows airflow, kubeflow, logging, prometheus and seldon-core; not elk\n"


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """A real PostgreSQL on a socket, which asks for passwords, in which the component's own SQL was run as the image's entry point runs it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: make packages installs it")
    root = os.getuid() == 0
    user = "postgres" if root else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="quarry-pg-"))
    (folder / "password").write_text("super")
    options: dict[str, Any] = {"user": user, "extra_groups": []} if root else {}
    if root:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    data = str(folder / "data")
    initdb = [
        str(programs[-1] / "initdb"),
        "-D",
        data,
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        f"--pwfile={folder}/password",
        "--no-sync",
        "--no-locale",
        "-E",
        "UTF8",
    ]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **options)
    control = [str(programs[-1] / "pg_ctl"), "-D", data, "-w", "-l", f"{folder}/log", "-o", f"-k {folder} -c listen_addresses= -c fsync=off"]
    subprocess.run([*control, "start"], check=True, capture_output=True, cwd=folder, **options)
    try:
        environment = {**os.environ, "PGHOST": str(folder), "MLFLOW_PASSWORD": "it's \\m", "AIRFLOW_PASSWORD": 'a"a'}
        entry = ["psql", "-v", "ON_ERROR_STOP=1", "--username", "postgres", "--no-password", "--no-psqlrc", "--dbname", "postgres", "-f"]
        sql = str(K8S / "components/postgres/databases.sql")
        subprocess.run([*entry, sql], env=environment | {"PGPASSWORD": "super"}, check=True, capture_output=True, text=True)
        yield environment
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **options)
        shutil.rmtree(folder)


def test_each_databases_owner_makes_tables_in_it_and_enters_no_other(database: dict[str, str]) -> None:
    def asks(user: str, where: str, password: str) -> str:
        command = ["psql", "--no-psqlrc", "--no-password", "-At", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", where, "-c", "CREATE TABLE t(x int)"]
        return subprocess.run(command, env=database | {"PGPASSWORD": password}, capture_output=True, text=True, check=False).stderr

    passwords = {"mlflow": database["MLFLOW_PASSWORD"], "airflow": database["AIRFLOW_PASSWORD"]}
    for user, other in (("mlflow", "airflow"), ("airflow", "mlflow")):
        assert asks(user, user, passwords[user]) == ""
        assert "permission denied for database" in asks(user, other, passwords[user])
        assert "permission denied for database" in asks(user, "postgres", passwords[user])
        assert "password authentication failed" in asks(user, user, passwords[other])


def test_the_pod_mounts_the_sql_where_the_image_looks_and_gives_it_its_passwords() -> None:
    [pod] = (pod for m in named(everything("kind"), "Deployment") if m["metadata"]["name"] == "postgres" and (pod := pod_of(m)))
    [container] = pod["containers"]
    [mounted] = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/docker-entrypoint-initdb.d")
    [config] = (v["configMap"]["name"] for v in pod["volumes"] if v["name"] == mounted)
    [data] = (m["data"] for m in named(everything("kind"), "ConfigMap") if m["metadata"]["name"] == config)
    assert data == {"databases.sql": (K8S / "components/postgres/databases.sql").read_text()}
    asked = set(re.findall(r"\\getenv \w+ (\w+)", data["databases.sql"]))
    assert asked | {"POSTGRES_PASSWORD"} == cluster_secrets()["database", "postgres"] == {v["name"] for v in container["env"] if "valueFrom" in v}
