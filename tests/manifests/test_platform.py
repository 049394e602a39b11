"""k8s/: every overlay renders, fits the schemas, and keeps the rules; platform.sh calls helm and kubectl in order (recorded, no cluster here)."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .chart import ACCOUNT, CHART, CLONE, HELM, Workload, render, values, workloads
from .overlays import GIVEN, K8S, OVERLAYS, RELEASE, cluster_secrets, everything, named, needs_kubectl, pod_of, rendered, where
from .schemas import MINOR_VERSIONS, Unknown, problems

DELIVERS = {"Role quarry/quarry-deploy", "Role monitoring/forward-port", "Role kubeflow/forward-port"}  # base/access.yaml
OURS = re.compile(r"quarry/[a-z]+:(local|unset)")  # the deployment says which, by digest
OTHERS = {"chrislusf/seaweedfs", "postgres"}  # on a laptop, in place of Amazon's
CLOSED = ("quarry", "mlflow")  # nothing in or out that no policy allows; on kind the database's too
pytestmark = needs_kubectl


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_the_schemas_of_three_kubernetes_versions(overlay: str) -> None:
    assert len(MINOR_VERSIONS) == 3
    found = {where(m): p for m in everything(overlay) if (p := problems(m))}
    assert found == {}


def test_the_schemas_refuse_what_is_not_a_field_and_what_they_do_not_know() -> None:
    deployment = next(named(everything("kind"), "Deployment"))
    assert len(problems({**deployment, "spec": {**deployment["spec"], "replica": 1}})) == len(MINOR_VERSIONS)
    secret = next(named(everything("staging"), "ExternalSecret"))
    assert problems({**secret, "spec": {**secret["spec"], "target": {"nam": "x"}}}) == ["spec.target.nam: is not a field"]
    with pytest.raises(Unknown):
        problems({**secret, "kind": "Unheard"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_namespace_has_its_pod_security_level_and_only_the_named_ones_are_not_restricted(overlay: str) -> None:
    levels = {m["metadata"]["name"]: m["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for m in named(everything(overlay), "Namespace")}
    used = {m["metadata"]["namespace"] for m in everything(overlay) if "namespace" in m["metadata"]}
    charts = {line.split()[1] for line in (K8S / "charts.txt").read_text().splitlines() if line and not line.startswith("#")}
    assert used | charts <= levels.keys() | {"kube-system"}  # Kubernetes' own
    assert {name: level for name, level in levels.items() if level != "restricted"} == {
        "kubeflow": "baseline",
        "node-agents": "privileged",
        "seldon-system": "baseline",
    }


def test_the_platforms_accounts_are_those_that_terraform_gives_roles() -> None:
    """Chart by chart: the namespace it is installed in, and the service account that its values name."""
    roles = re.findall(r'namespace = "([\w-]+)", service_account = "([\w-]+)"', (CLONE / "terraform/modules/identity/workloads.tf").read_text())
    charts = {line.split()[0]: line.split()[1] for line in (K8S / "charts.txt").read_text().splitlines() if line and not line.startswith("#")}
    told = {name: yaml.safe_load((K8S / f"values/{name}.yaml").read_text()) for name in ("balancer", "autoscaler", "external-secrets")}
    accounts = {name: (values.get("serviceAccount") or values["rbac"]["serviceAccount"])["name"] for name, values in told.items()}
    assert {(charts[name], account) for name, account in accounts.items()} <= set(roles)
    for name in ("staging", "production"):
        own = {part: yaml.safe_load((K8S / f"values/{part}-{name}.yaml").read_text()) for part in ("balancer", "autoscaler")}
        assert f'environment = "{name}"' in (CLONE / f"terraform/envs/{name}/settings.tf").read_text()
        assert own["balancer"] == {"clusterName": f"quarry-{name}", "vpcTags": {"Name": f"quarry-{name}"}}
        assert own["autoscaler"] == {"autoDiscovery": {"clusterName": f"quarry-{name}"}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_keep_the_restricted_profile_and_say_what_they_need(overlay: str) -> None:
    pods = {where(m): pod for m in everything(overlay) if (pod := pod_of(m))}
    assert pods
    for name, pod in pods.items():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"}), name
        assert security["runAsUser"] > 0
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False), name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"], own["capabilities"]) == (False, True, {"drop": ["ALL"]}), name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert OURS.fullmatch(container["image"]) or (overlay == "kind" and container["image"].partition(":")[0] in OTHERS), container["image"]
            ports = {p["name"] for p in container["ports"]}
            assert {container[p]["httpGet"]["port"] for p in ("startupProbe", "readinessProbe", "livenessProbe") if "exec" not in container[p]} <= ports
            mounted = {m["name"] for m in container["volumeMounts"]}
            assert mounted == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_ecks_operator_does_not_say_for_the_restricted_profile_is_said(overlay: str) -> None:
    """Of the containers it says the rest (pkg/controller/*/securitycontext.go); whether the pod may be root it says for Elasticsearch alone."""
    manifests = everything(overlay)
    templates = [n["podTemplate"] for m in named(manifests, "Elasticsearch") for n in m["spec"]["nodeSets"]]
    templates += [m["spec"]["podTemplate"] for m in named(manifests, "Kibana")]
    assert len(templates) == 2
    for template in templates:
        security = template["spec"]["securityContext"]
        assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert security["runAsUser"] > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_meet_their_pods_and_ports_have_their_names(overlay: str) -> None:
    manifests = everything(overlay)
    pods = [(m["metadata"]["namespace"], m["spec"]["template"]) for m in manifests if pod_of(m)]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = {"Service": spec.get("selector"), "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels")}.get(manifest["kind"])
        if selector is None:
            continue
        met = [t for namespace, t in pods if namespace == manifest["metadata"]["namespace"] and selector.items() <= t["metadata"]["labels"].items()]
        assert len(met) == 1, where(manifest)
        if manifest["kind"] == "Service":
            open_ports = {p["name"] for c in met[0]["spec"]["containers"] for p in c["ports"]}
            assert {p["targetPort"] for p in spec["ports"]} <= open_ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_namespaces_are_closed_and_every_reference_is_to_something(overlay: str) -> None:
    manifests = everything(overlay)
    for namespace in (*CLOSED, *(["database"] if overlay == "kind" else [])):
        policies = [m["spec"] for m in named(manifests, "NetworkPolicy") if m["metadata"]["namespace"] == namespace]
        assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    made = {(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests}
    made |= {("Secret", m["metadata"]["namespace"], m["spec"]["target"]["name"]) for m in named(manifests, "ExternalSecret")}
    keys = cluster_secrets() if overlay == "kind" else {}
    made |= {("Secret", *secret) for secret in keys}
    for manifest in manifests:
        if (pod := pod_of(manifest)) is None:
            continue
        namespace = manifest["metadata"]["namespace"]
        assert ("ServiceAccount", namespace, pod["serviceAccountName"]) in made
        for variable in (v for c in pod["containers"] for v in c["env"] if "valueFrom" in v):
            kind, reference = next(iter(variable["valueFrom"].items()))
            assert ({"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}[kind], namespace, reference["name"]) in made, variable["name"]
            assert kind != "secretKeyRef" or overlay != "kind" or reference["key"] in keys[namespace, reference["name"]], variable["name"]
        for source in (s for c in pod["containers"] for s in c.get("envFrom", [])):
            assert ("Secret", namespace, source["secretRef"]["name"]) in made
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", namespace, claim["claimName"]) in made
            if config := volume.get("configMap"):
                assert ("ConfigMap", namespace, config["name"]) in made


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_the_index_lies_on_a_class_that_is_made_and_is_the_default(overlay: str) -> None:
    values = yaml.safe_load((CLONE / f"helm/quarry/values-{overlay}.yaml").read_text())
    [made] = named(everything(overlay), "StorageClass")
    assert made["metadata"]["name"] == values["index"]["volume"]["storageClass"]
    assert made["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert (made["provisioner"], made["volumeBindingMode"]) == ("ebs.csi.aws.com", "WaitForFirstConsumer"), "the index's pods share its node"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_git_and_no_role_may_do_everything(overlay: str) -> None:
    manifests = everything(overlay)
    assert list(named(manifests, "Secret")) == []
    for role in (*named(manifests, "Role"), *named(manifests, "ClusterRole")):
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]], where(role)
            assert set(rule["verbs"]) <= {"get", "list", "watch"} or where(role) in DELIVERS, where(role)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_delivery_may_forward_two_ports_and_change_what_the_chart_brings(overlay: str) -> None:
    manifests = everything(overlay)
    for role in (m for m in named(manifests, "Role") if where(m) in DELIVERS - {"Role quarry/quarry-deploy"}):
        service = {"monitoring": "prometheus-operated", "kubeflow": "ml-pipeline"}[role["metadata"]["namespace"]]
        assert service in "".join(p.read_text() for p in (CLONE / ".github/scripts").glob("*.sh"))
        assert {(*r["resources"], *r.get("resourceNames", []), *r["verbs"]) for r in role["rules"]} == {
            ("services", service, "get"),
            ("pods", "get", "list"),
            ("pods/portforward", "get", "create"),
        }
    terraform = "".join(p.read_text() for p in (CLONE / "terraform/envs").glob("*/main.tf"))
    bindings = {(where(m), m["roleRef"]["name"]): [s["name"] for s in m["subjects"]] for m in named(manifests, "RoleBinding")}
    ours = {f"RoleBinding {role.removeprefix('Role ')}" for role in DELIVERS}
    assert {name: groups for (name, _), groups in bindings.items() if name in ours} == {
        "RoleBinding quarry/quarry-deploy": ["quarry-deploy"],
        "RoleBinding monitoring/forward-port": ["quarry-deploy"],
        "RoleBinding kubeflow/forward-port": ["quarry-pipelines"],
    }
    assert all(f'groups = ["{group}"]' in terraform for groups in bindings.values() for group in groups)


@pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")
def test_the_delivery_may_change_every_kind_that_is_not_kubernetes_own() -> None:
    """EKS's AdminPolicy has all of Kubernetes' own kinds that the chart uses, and no other."""
    [role] = (m for m in named(rendered("base"), "Role") if where(m) == "Role quarry/quarry-deploy")
    granted = {(group, resource) for rule in role["rules"] for group in rule["apiGroups"] for resource in rule["resources"]}
    templates = "".join(p.read_text() for p in (CHART / "templates").rglob("*.yaml"))
    kinds = re.findall(r"^apiVersion: (\S+\.\S+)/\S+\nkind: (\w+)$", templates, re.MULTILINE)
    assert {(group, f"{kind.lower()}s") for group, kind in kinds if not group.endswith("k8s.io")} == granted
    assert all({"create", "update", "patch", "delete", "get", "list", "watch"} == set(rule["verbs"]) for rule in role["rules"])


def test_kinds_releases_come_from_its_own_store_which_only_the_chart_reaches() -> None:
    """The address in values-local.yaml is the Service of the component; whoever fetches is let in there, and let out to it."""
    given = yaml.safe_load((CLONE / "helm/quarry/values-local.yaml").read_text())
    manifests = everything("kind")
    [service] = (m for m in named(manifests, "Service") if m["metadata"]["name"] == "object-store")
    [port] = service["spec"]["ports"]
    assert service["metadata"]["namespace"] == "quarry"
    assert given["artefacts"]["environment"]["AWS_ENDPOINT_URL"] == f"http://object-store:{port['port']}"
    assert cluster_secrets()["quarry", given["artefacts"]["existingSecret"]] == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert given["network"]["objectStore"] == {"peers": [{"podSelector": {"matchLabels": service["spec"]["selector"]}}], "port": port["port"]}
    [policy] = (m["spec"] for m in named(manifests, "NetworkPolicy") if m["metadata"]["name"] == "object-store")
    [rule] = policy["ingress"]
    [chosen] = rule["from"][0]["podSelector"]["matchExpressions"]  # the others in test_kind.py
    fetching = {w.component for w in workloads(render(values(), [CHART / "values-production.yaml", ACCOUNT])) if _reads_objects(w)}
    assert fetching == set(chosen["values"])
    for overlay in ("staging", "production"):
        assert not [m for m in everything(overlay) if m["metadata"]["name"] == "object-store"]


def _reads_objects(workload: Workload) -> bool:
    containers = [*workload.pod.get("initContainers", []), *workload.pod["containers"]]
    return any(v["name"].startswith("AWS_") for c in containers for v in c.get("env", []))


def test_the_cluster_is_refused_where_its_tools_are_missing(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    (tmp_path / "docker").symlink_to("/bin/true")
    done = subprocess.run(["/bin/bash", str(K8S / "cluster.sh")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "make cluster needs docker, kind, kubectl and helm; kind is not installed" in done.stderr


def test_values_are_yaml_and_belong_to_a_chart_that_is_pinned() -> None:
    lines = [line.split() for line in (K8S / "charts.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(line) == 6 or line[6:] == ["named"] for line in lines)
    releases = {line[0] for line in lines}
    allowed = releases | {f"{release}-{overlay}" for release in releases for overlay in OVERLAYS}
    for path in (K8S / "values").iterdir():
        assert path.stem in allowed
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    for _, _, _, repository, version, overlays, *_ in lines:
        assert repository.startswith("https://")
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert set(overlays.split(",")) <= set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_seldons_operator_knows_of_keda_where_keda_is_and_after_it(overlay: str) -> None:
    """Without KEDA_ENABLED it passes over kedaSpec, by which production's readers are scaled; with it, it ends where KEDA's kinds are not."""
    here = [line.split()[0] for line in (K8S / "charts.txt").read_text().splitlines() if line and line[0] != "#" and overlay in line.split()[5].split(",")]
    own = K8S / f"values/seldon-core-{overlay}.yaml"
    told = yaml.safe_load(own.read_text()) if own.exists() else {}
    assert told == ({"keda": {"enabled": True}} if "keda" in here else {})
    assert "keda" not in here or here.index("keda") < here.index("seldon-core")


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """helm and kubectl that write down how they were called."""
    log = tmp_path / "calls"
    for overlay in ("staging", "production"):
        shutil.copy(GIVEN, shutil.copytree(K8S, tmp_path / "k8s", dirs_exist_ok=True) / f"overlays/{overlay}/account.env")
    (tmp_path / "k8s/overlays/kind/release.env").write_text(RELEASE)
    for name in ("helm", "kubectl"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n')
        (tmp_path / name).chmod(0o755)
    yield {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, log


def platform(recorded: tuple[dict[str, str], Path], *arguments: str) -> tuple[int, str, list[str]]:
    environment, log = recorded
    done = subprocess.run([str(log.with_name("k8s") / "platform.sh"), *arguments], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_platform_is_applied_namespaces_first_then_operators_then_what_they_work_for(overlay: str, recorded: tuple[dict[str, str], Path]) -> None:
    status, said, calls = platform(recorded, overlay)
    assert (status, said) == (0, "")
    charts = [line.split() for line in (K8S / "charts.txt").read_text().splitlines() if line and not line.startswith("#")]
    wanted = [line for line in charts if overlay in line[5].split(",") and line[6:] != ["named"]]
    assert calls[0] == "kubectl apply --server-side -k base"
    helm = calls[1 : 1 + len(wanted)]
    for call, (release, namespace, chart, repository, version, *_) in zip(helm, wanted, strict=True):
        files = [f for f in (f"values/{release}.yaml", f"values/{release}-{overlay}.yaml") if (K8S / f).exists()]
        begin = f"helm upgrade --install {release} {chart} --repo {repository} --version {version} --namespace {namespace} "
        assert call == begin + "".join(f"--values {f} " for f in files) + "--wait --timeout 15m"
    after = [call.rpartition(" ")[2] for call in calls[1 + len(wanted) :] if " apply " in call]
    upstream, *ours = after
    assert upstream.startswith("https://github.com/kubeflow/pipelines//manifests/")
    logging = "overlays/kind/logging" if overlay == "kind" else "components/logging"
    assert ours == ["components/kubeflow", "components/trainer", logging, f"overlays/{overlay}"]


@pytest.mark.parametrize("release", ["prometheus", "airflow"])  # the second comes only so
def test_one_chart_alone(release: str, recorded: tuple[dict[str, str], Path]) -> None:
    assert [call.split()[:4] for call in platform(recorded, "staging", release)[2]] == [["helm", "upgrade", "--install", release]]


@pytest.mark.parametrize("wrong", [(), ("nowhere",), ("",)])
def test_an_unknown_platform_is_refused_before_anything_is_called(wrong: tuple[str, ...], recorded: tuple[dict[str, str], Path]) -> None:
    status, said, calls = platform(recorded, *wrong)
    assert (status, calls) == (2, [])
    assert "platform.sh kind|staging|production" in said


def test_a_laptops_platform_without_its_release_is_refused(recorded: tuple[dict[str, str], Path]) -> None:
    (recorded[1].with_name("k8s") / "overlays/kind/release.env").unlink()
    status, said, calls = platform(recorded, "kind")
    assert (status, calls) == (2, [])
    assert "make cluster writes it into k8s/overlays/kind/release.env" in said


def test_parts_are_left_out_on_a_laptop_and_nowhere_else(recorded: tuple[dict[str, str], Path]) -> None:
    environment, log = recorded
    whole = platform(recorded, "kind")[2]
    log.unlink()
    for part, gone in {
        "logging": ["eck ", "/logging"],
        "kubeflow": ["kubeflow", "trainer", "crd/"],
        "prometheus": [" prometheus "],
        "seldon-core": ["seldon"],
    }.items():
        environment["WITHOUT"] = part
        assert platform(recorded, "kind")[2] == [call for call in whole if not any(word in call for word in gone)], part
        log.unlink()
    environment["WITHOUT"] = "airflow kubeflow logging prometheus seldon-core"
    assert platform(recorded, "kind")[2] == ["kubectl apply --server-side -k base", "kubectl apply --server-side -k overlays/kind"]
    assert len(platform(recorded, "staging")[2]) > 10
    log.unlink()
    environment["WITHOUT"] = "elk"
    status, said, calls = platform(recorded, "kind")
    assert (status, calls, "airflow, kubeflow, logging, prometheus and seldon-core; not elk" in said) == (2, [], True)


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_a_platform_that_knows_nothing_of_its_account_is_refused_and_told_how(overlay: str, recorded: tuple[dict[str, str], Path]) -> None:
    (recorded[1].with_name("k8s") / f"overlays/{overlay}/account.env").unlink()
    status, said, calls = platform(recorded, overlay)
    assert (status, calls) == (2, [])
    assert f"terraform -chdir=terraform/envs/{overlay} output -raw platform > k8s/overlays/{overlay}/account.env\n" in said
    assert platform(recorded, overlay, "prometheus")[0] == 0


def test_kubeflow_is_the_release_our_client_speaks_to() -> None:
    version = re.search(r"^kfp-server-api==(\d+\.\d+)\.", (CLONE / "pipelines/kubeflow/requirements.lock").read_text(), re.MULTILINE)
    assert version
    texts = [(K8S / "components/kubeflow/kustomization.yaml").read_text(), (K8S / "platform.sh").read_text()]
    assert all(set(re.findall(r"ref=(\d+\.\d+)\.\d+", text)) == {version[1]} for text in texts)
