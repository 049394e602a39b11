"""helm/quarry, rendered by the real helm: schemas, rules, flows, refusals, and what a release changes."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from .chart import ACCOUNT, CANDIDATE, CHART, CLONE, HELM, LIVE, PREVIOUS, HelmError, release, render, values, workloads
from .faults import FAULTS, caught
from .flows import DNS, NODE, OUTSIDE, flows
from .overlays import needs_kubectl
from .picture import PAGE, drawings, laptop_picture, picture
from .rules import broken
from .schemas import problems

FILES = ("local", "staging", "production")
pytestmark = pytest.mark.skipif(not Path(HELM).exists(), reason="helm is not there: make test P=tests fetches it")
PINECONE = {"index": {"store": "pinecone", "pinecone": {"host": "https://quarry-abc.svc.pinecone.io", "externalSecret": "quarry/pinecone"}}}
KEYS = {"gateway": {"edge": {"existingSecret": "existing-edge"}}}
AWS = yaml.safe_load(ACCOUNT.read_text())
JWT = {"gateway": {"auth": {"mode": "jwt", "jwks": "https://id.example.com/keys", "issuer": "https://id.example.com", "audience": "quarry"}}}
EXTRAS: dict[str, dict[str, Any]] = {
    "least": {},
    "pinecone": PINECONE | {"ingestion": {"enabled": True, "retention": [{"days": 30, "since": "seen"}]}},
    "volume": {"index": {"store": "volume", "volume": {"existingClaim": "existing-index"}}, "ingestion": {"enabled": True, "source": "s3://b/documents/"}},
    "keys of a store": {
        "artefacts": {"prefix": "s3://bucket/releases", "existingSecret": "existing-keys"},
        "index": {"store": "volume"},
        "ingestion": {"enabled": True},
    },
    "tokens": JWT,
    "edge": KEYS,
    "account": AWS | {"index": {"store": "volume"}, "ingestion": AWS["ingestion"] | {"enabled": True}},
    "queue": {"reader": {"autoscaling": {"queuedTokens": 5000}}, "monitoring": {"podMonitor": True, "rules": [{"name": "x", "rules": []}]}},
    "fixed": {part: {"autoscaling": {"enabled": False}} for part in ("gateway", "retriever", "reader")},
    "own pipeline": {"gateway": {"pipeline": "components: {}\n"}},
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("candidate", [False, True])
def test_every_values_file_keeps_every_rule(file: str, candidate: bool) -> None:
    account = [] if file == "local" else [ACCOUNT]
    assert broken(render(values(candidate), [CHART / f"values-{file}.yaml", *account])) == []


@pytest.mark.parametrize(("extra", "mode"), list(product(EXTRAS, ["seldon", "plain"])))
def test_every_documented_choice_keeps_every_rule(extra: str, mode: str) -> None:
    assert broken(render(values(True, mode=mode, **EXTRAS[extra]))) == []


def test_under_seldon_there_are_two_deployments_a_release_and_plainly_the_same_pods() -> None:
    seldon, plain = (
        {(w.component, w.labels["quarry/release"]): w for w in workloads(render(values(True, mode=mode))) if "quarry/release" in w.labels}
        for mode in ("seldon", "plain")
    )
    assert seldon.keys() == plain.keys() == set(product(("retriever", "reader"), (LIVE, CANDIDATE, PREVIOUS)))
    assert {w.owner["kind"] for w in seldon.values()} == {"SeldonDeployment"}
    assert {w.owner["kind"] for w in plain.values()} == {"Deployment"}
    for key, workload in seldon.items():
        assert workload.pod == plain[key].pod


EXPECTED = {
    ("addresses 10.22.0.0/16", "gateway", 8080),
    ("prometheus", "gateway", 8080),
    ("prometheus", "retriever", 9000),
    ("prometheus", "reader", 9000),
    ("prometheus", "ingestion", 9004),
    ("test", "gateway", 8080),
    ("gateway", "retriever", 9000),
    ("gateway", "reader", 9000),
    ("gateway", "ingestion", 9004),
} | {(one, *to) for one in ("retriever", "reader", "ingestion", "collect", "reconcile", "backup") for to in ((OUTSIDE, 443), (NODE, 80))}
RESOLVE = {(one, DNS, 53) for one in ("gateway", "retriever", "reader", "ingestion", "collect", "reconcile", "backup", "test")}


def test_the_flows_that_are_allowed_are_those_of_the_picture_and_no_others() -> None:
    assert flows(render(values(True), [CHART / "values-production.yaml", ACCOUNT])) == EXPECTED | RESOLVE
    tokens = flows(render(values(**JWT), [CHART / "values-production.yaml", ACCOUNT]))
    assert tokens - EXPECTED - RESOLVE == {("gateway", OUTSIDE, 443)}
    assert not any(name == "anybody" for flow in tokens for name in flow[:2])


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_values_are_those_of_terraforms_environment(name: str) -> None:
    """Its network, and the labels and taints of its node groups."""
    settings = (CLONE / f"terraform/envs/{name}/settings.tf").read_text()
    nodes = (CLONE / "terraform/modules/cluster/nodes.tf").read_text()
    told = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    [network] = re.findall(r'^  cidr += "(.+)"$', settings, re.MULTILINE)
    assert told["network"]["clients"] == [{"ipBlock": {"cidr": network}}]
    [label] = re.findall(r'labels += \{ "(.+)" = each\.key \}', nodes)
    [(key, effect)] = re.findall(r'key    = "(.+)"\n      value  = taint\.value\n      effect = "(.+)"', nodes)
    groups = re.findall(r"^    (\w+) += \{ instance_types", settings, re.MULTILINE)
    assert {"general", "serving"} <= set(groups)
    kinds = {"NO_SCHEDULE": "NoSchedule"}
    for workload in workloads(render(values(), [CHART / f"values-{name}.yaml", ACCOUNT])):
        if workload.component in ("gateway", "test"):
            assert not {"nodeSelector", "tolerations"} & workload.pod.keys()  # nodes without a taint: `general`
        else:
            assert workload.pod["nodeSelector"] == {label: "serving"}
            assert workload.pod["tolerations"] == [{"key": key, "operator": "Equal", "value": "serving", "effect": kinds[effect]}]


def test_the_index_is_backed_up_where_a_prefix_says_by_ingestions_own_command() -> None:
    found = {w.owner["metadata"]["name"]: w for w in workloads(render(values(), [CHART / "values-production.yaml", ACCOUNT]))}
    [container] = found["quarry-backup"].pod["containers"]
    assert container["command"] == ["python3", "-m", "quarry_ingestion.backup"]
    assert (CLONE / "pipelines/ingestion/src/quarry_ingestion/backup.py").is_file()
    assert container["args"] == [found["quarry-ingestion"].pod["containers"][0]["args"][-1], AWS["ingestion"]["backup"]["prefix"]]
    without = render(values(index={"store": "volume"}, ingestion={"enabled": True}))
    assert not [m for m in without if "backup" in m["metadata"]["name"]]


def test_retention_is_read_by_all_that_write_the_index() -> None:
    told = [{"source": "upload", "days": 90, "since": "modified"}, {"documents": "contracts/*", "days": None, "since": "seen"}]
    manifests = render(values(index={"store": "volume"}, ingestion={"enabled": True, "source": "s3://b/d/", "retention": told}))
    [rules] = (m for m in manifests if m["kind"] == "ConfigMap" and "retention" in m["metadata"]["name"])
    [(name, text)] = rules["data"].items()
    assert json.loads(text) == told
    writers = [w for w in workloads(manifests) if w.component in ("ingestion", "collect", "reconcile")]
    assert len(writers) == 3
    for workload in writers:
        [container] = workload.pod["containers"]
        [mount] = (m for m in container["volumeMounts"] if m["name"] == "retention")
        assert {"name": "QUARRY_RETENTION_FILE", "value": f"{mount['mountPath']}/{name}"} in container["env"]
        assert {"name": "retention", "configMap": {"name": rules["metadata"]["name"]}} in workload.pod["volumes"]


@needs_kubectl
def test_the_pictures_in_the_docs_are_drawn_from_the_manifests() -> None:
    drawn = [part.strip() for part in drawings(PAGE.read_text())]
    assert drawn == [picture(), laptop_picture()], "python -m manifests.picture draws them anew"


def test_a_rollout_changes_what_its_golden_file_says(tmp_path: Path) -> None:
    """`make deploy`'s own writer of values-release.yaml, step by step: objects that come, go and change, and who answers."""
    for identity in (LIVE, CANDIDATE):
        folder = tmp_path / "releases" / identity
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(release(identity))
    written = tmp_path / "values-release.yaml"
    steps = {
        "install": [LIVE],
        "canary at a tenth": [CANDIDATE, "--share", "0.1"],
        "canary at a half": [CANDIDATE, "--share", "0.5"],
        "promote": [CANDIDATE],
        "roll back": ["--back"],
        "canary": [CANDIDATE, "--share", "0.1"],
        "end it": [CANDIDATE, "--share", "0"],
    }
    told: dict[str, Any] = {}
    before: dict[str, Any] = {}
    for name, arguments in steps.items():
        command = [sys.executable, str(CLONE / "local/deploy.py"), "--home", str(tmp_path), "--values", str(written), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        now = {f"{m['kind']} {m['metadata']['name']}": m for m in render(values(mode="plain") | {"releases": {}}, [written])}
        table = json.loads(now["ConfigMap quarry-routes"]["data"]["routes.json"])
        told[name] = {
            "come": sorted(now.keys() - before.keys()) if before else ["everything"],
            "go": sorted(before.keys() - now.keys()),
            "change": sorted(k for k in now.keys() & before.keys() if now[k] != before[k]),
            "answers": {k: v for k, v in table.items() if k != "releases"},
        }
        before = now
    assert told == json.loads(Path(__file__).with_name("rollout.json").read_text()), json.dumps(told, indent=1)


@pytest.mark.parametrize(("arguments", "says"), [(["nope"], "there is no release nope"), (["--back"], "no release was live before"), ([], "say which release")])
def test_a_rollout_that_cannot_be_is_refused_and_writes_nothing(arguments: list[str], says: str, tmp_path: Path) -> None:
    written = tmp_path / "values-release.yaml"
    command = [sys.executable, str(CLONE / "local/deploy.py"), "--home", str(tmp_path), "--values", str(written), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not written.exists()


@pytest.mark.parametrize("damaged", ["releases:\n  live: {}\n", "{", "[]", '{"releases": {}}', '{"releases": {"live": {"manifest": "{}"}}}', ""])
def test_a_rollout_does_not_go_on_from_a_file_it_cannot_read(damaged: str, tmp_path: Path) -> None:
    written = tmp_path / "values-release.yaml"
    written.write_text(damaged)
    folder = tmp_path / "releases" / LIVE
    folder.mkdir(parents=True)
    (folder / "release.json").write_text(release())
    command = [sys.executable, str(CLONE / "local/deploy.py"), "--home", str(tmp_path), "--values", str(written), LIVE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, written.read_text()) == (1, damaged)
    assert "is not as make deploy writes it" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_routing_table_is_the_gateways_own_contract() -> None:
    from quarry_contract.releases import RoutingTable

    routes = next(m["data"] for m in render(values(True)) if m["metadata"]["name"] == "quarry-routes")
    table = RoutingTable.from_dict(json.loads(routes["routes.json"]))
    assert (table.live, table.candidate, table.share, table.mirror) == (LIVE, CANDIDATE, 0.1, 0.5)
    assert json.loads(routes["live.json"])["release_id"] == LIVE


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no release": ({"releases": {"live": {"manifest": ""}}}, "releases.live.manifest is empty: make deploy"),
    "not a release": ({"releases": {"live": {"manifest": "{}"}}}, "releases.live.manifest is not a release.json: give the file's text"),
    "not JSON": ({"releases": {"live": {"manifest": "x"}}}, "is not a release.json"),
    "no prefix": ({"artefacts": {"prefix": ""}}, "artefacts.prefix is empty: say where"),
    "a folder": ({"artefacts": {"prefix": "/releases"}}, "artefacts.prefix is /releases: give s3://bucket/prefix"),
    "unknown key": ({"reader": {"replica": 2}}, "additional properties 'replica'"),
    "unknown mode": ({"mode": "kserve"}, "must be one of 'seldon', 'plain'"),
    "latest": ({"images": {"tag": "latest"}}, "images.tag is latest"),
    "no memory limit": ({"reader": {"resources": {"limits": {"memory": None}}}}, "/reader/resources/limits"),
    "min above max": ({"reader": {"autoscaling": {"min": 20, "max": 2}}}, "reader.autoscaling.min is above its max: raise max"),
    "a share of 2": ({"releases": {"candidate": {"share": 2}}}, "/releases/candidate/share"),
    "no tokens' issuer": ({"gateway": {"auth": {"mode": "jwt"}}}, "gateway.auth.jwks is empty: give the issuer's keys"),
    "keys by http": ({"gateway": {"auth": {"jwks": "http://x/keys"}}}, "gateway.auth.jwks is http://x/keys: give an https:// address"),
    "no Pinecone": ({"index": {"store": "pinecone"}}, "index.pinecone.host is empty"),
    "no Pinecone key": ({"index": {"store": "pinecone", "pinecone": {"host": "x"}}}, "name the secret with its key"),
    "nothing to write": ({"ingestion": {"enabled": True}}, "set index.store to volume or pinecone"),
    "a port of nothing": ({"gateway": {"service": {"nodePort": 30080}}}, "is not NodePort: change one"),
    "no target group": ({"gateway": {"edge": {"targetGroup": "quarry-staging"}}}, "gateway.edge.targetGroup is quarry-staging: give the ARN"),
    "one secret": ({"gateway": {"edge": {"externalSecrets": "quarry-staging/edge-key-a"}}}, "/gateway/edge/externalSecrets"),
    "a taint of another kind": ({"nodes": {"tolerations": [{"effect": "NO_SCHEDULE"}]}}, "/nodes/tolerations/0/effect"),
    "a rule of no kind": ({"ingestion": {"retention": [{"days": 9, "since": "born"}]}}, "/ingestion/retention/0/since"),
    "a backup to a folder": ({"ingestion": {"backup": {"prefix": "/backups"}}}, "ingestion.backup.prefix is /backups: give s3://bucket/prefix"),
    "deadline over the edge's": ({"gateway": {"deadlineMs": 30000}}, "/gateway/deadlineMs"),
    "a size that is none": ({"index": {"volume": {"size": "20 GB"}}}, "index.volume.size is 20 GB: give a size as 20Gi"),
    "memory in thousandths": ({"retriever": {"resources": {"limits": {"memory": "512m"}}}}, "resources.limits.memory is 512m: give bytes as 512Mi or 2Gi"),
    "processors in bytes": (
        {"ingestion": {"resources": {"requests": {"cpu": "1Gi"}}}},
        "ingestion.resources.requests.cpu is 1Gi: give processors as 500m or 2",
    ),
    "a registry without a slash": ({"images": {"registry": "example.com/team"}}, "images.registry is example.com/team: end it with a slash"),
    "half a digest": ({"reader": {"image": {"digest": "sha256:abc"}}}, "reader.image.digest is sha256:abc: give sha256: and 64 hex digits"),
    "a schedule in words": ({"ingestion": {"schedule": "hourly"}}, "ingestion.schedule is hourly: give cron's five fields"),
    "a source of nothing": ({"ingestion": {"source": "s3://b/d/"}}, "ingestion.source is given, but ingestion.enabled is false: set it to true"),
    "a backup of nothing": ({"ingestion": {"backup": {"prefix": "s3://b/x"}}}, "ingestion.backup.prefix is given, but ingestion.enabled is false"),
    "a share of no release": ({"releases": {"candidate": {"share": 0.1}}}, "has a share or a mirror and no manifest: make deploy RELEASE=id SHARE=0.1"),
    "the edge's keys twice": ({"gateway": {"edge": {"existingSecret": "a", "externalSecrets": ["b"]}}}, "are both given: leave one empty"),
    "Pinecone's key twice": ({"index": {"pinecone": {"existingSecret": "a", "externalSecret": "b"}}}, "are both given: leave one empty"),
    "Pinecone unused": ({"index": {"pinecone": {"host": "x"}}}, "index.pinecone.host is given, but index.store is snapshot: set it to pinecone"),
    "a pipeline's path": ({"gateway": {"pipeline": "/app/x.yaml"}}, "give the YAML's text, by --set-file gateway.pipeline=pipeline.yaml"),
    "no secret store": ({"secretStore": {"name": ""}}, "/secretStore/name"),
    "a time without a unit": ({"secretStore": {"refresh": "3600"}}, "secretStore.refresh is 3600: give a time as 1h, 15m or 30s"),
    "Prometheus by name": (
        {"reader": {"autoscaling": {"prometheus": "prometheus:9090"}}},
        "reader.autoscaling.prometheus is prometheus:9090: give an http:// address",
    ),
    "a network file system": ({"index": {"store": "volume", "volume": {"accessMode": "ReadWriteMany"}}}, "additional properties 'accessMode'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nonsense_is_refused_by_the_key_and_what_to_do(name: str) -> None:
    given, says = REFUSED[name]
    with pytest.raises(HelmError) as refusal:
        render(_merged(values(), given))
    assert says in str(refusal.value)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for key, value in other.items():
        both[key] = _merged(both.get(key) or {}, value) if isinstance(value, dict) else value
    return both


def test_the_same_release_twice_is_refused() -> None:
    given = values(True)
    given["releases"]["candidate"]["manifest"] = given["releases"]["live"]["manifest"]
    with pytest.raises(HelmError, match=r"releases\.candidate is the same release as releases\.live"):
        render(given)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    assert caught(name, tmp_path), "the chart is wrong in this way and no rule says so"


def test_the_readme_tells_every_value_and_no_other() -> None:
    def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, value in tree.items():
            name = f"{prefix}{key}"
            found |= leaves(value, f"{name}.") if isinstance(value, dict) and value and name not in WHOLE else {name}
        return found

    told = set(re.findall(r"^\| `([^`]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))
    assert told == leaves(yaml.safe_load((CHART / "values.yaml").read_text()))


WHOLE = {f"{part}.{name}" for part in ("gateway", "retriever", "reader", "ingestion") for name in ("resources", "image", "autoscaling")}


def test_what_the_test_hook_runs_is_the_file_and_python() -> None:
    [pod] = (m for m in render(values()) if m["kind"] == "Pod")
    code = pod["spec"]["containers"][0]["args"][0]
    compile(code, "ask.py", "exec")
    assert code.strip() == (CHART / "ask.py").read_text().strip()
    assert problems(pod) == []
