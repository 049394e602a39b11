"""An environment that Terraform applied to moto: a second plan, changes of one variable, what boto3 finds, and nothing left after destroy."""

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from conftest import Applied
from rules import broken, denies_http
from runner import CLONE, Terraform

NAME = "quarry-staging"
BUCKETS = {f"{NAME}-123456789012-{kind}" for kind in ("artefacts", "backups", "documents", "logs")}
STAGE, KEY_B = "module.edge.aws_api_gateway_stage.this", "module.edge.aws_secretsmanager_secret_version.b"
CLIENTS = "{first={rate=2,burst=4,requests_per_day=10000},second={rate=1,burst=1,requests_per_day=10}}"
KEYS, PLANS, PLAN_KEYS = (f'module.edge.aws_api_gateway_{kind}.this["second"]' for kind in ("api_key", "usage_plan", "usage_plan_key"))
# What one variable is set to -> what that touches, and how.
CHANGES: dict[str, dict[str, str]] = {
    "edge_key=b": {STAGE: "update"},
    "edge_key_versions={a=1,b=2}": {KEY_B: "replace"},
    f"clients={CLIENTS}": {KEYS: "create", PLANS: "create", PLAN_KEYS: "create"},
    'jenkins={issuer="https://ci.example.com/oidc",job="https://ci.example.com/job/quarry/job/main/"}': {
        "module.identity.aws_iam_openid_connect_provider.jenkins[0]": "replace",
        **{f'module.identity.aws_iam_role.github["{role}"]': "update" for role in ("apply", "deploy", "gate", "images")},
        'module.identity.aws_iam_role_policy.github["apply"]': "update",
    },
    'api_cidrs=["198.51.100.0/24"]': {"module.cluster.aws_eks_cluster.this": "update"},
}


@pytest.fixture(scope="module")
def planned(applied: Applied, tmp_path_factory: pytest.TempPathFactory) -> dict[str, "Future[Any]"]:
    """All plans after the apply, by what is changed; two at a time."""
    terraform, folder = applied.terraform, tmp_path_factory.mktemp("revisions")
    with ThreadPoolExecutor(2) as pool:
        found = {"": pool.submit(terraform.changes)}
        found |= {change: pool.submit(terraform.changes, change, refresh=False) for change in CHANGES}
        canary, unknown = (terraform.copied(folder / name) for name in ("canary", "unknown"))
        _edit(canary, f'live = "{_live(canary)}", canary = "00000000", percent = 10')
        _edit(unknown, 'live = "00000000"')
        found["canary"] = pool.submit(canary.changes, refresh=False)
        found["unknown"] = pool.submit(unknown.run, "plan", "-input=false", "-no-color", "-lock=false", "-refresh=false", codes=(1,))
    return found


def _live(terraform: Terraform) -> str:
    return str(re.findall(r'live = "(\w+)"', (terraform.folder / "settings.tf").read_text())[0])


def _edit(terraform: Terraform, revisions: str) -> None:
    settings = terraform.folder / "settings.tf"
    settings.write_text(settings.read_text().replace(f'live = "{_live(terraform)}"', revisions))


def test_a_second_plan_is_empty(planned: dict[str, "Future[Any]"]) -> None:
    assert planned[""].result() == {}


def test_no_rule_is_broken(applied: Applied) -> None:
    """As in the plans, with all that only an apply makes known: policies, with their resources."""
    assert broken(applied.state) == {}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_only_what_it_should(planned: dict[str, "Future[Any]"], change: str) -> None:
    assert planned[change].result() == CHANGES[change]


def test_a_new_revision_is_tried_before_it_is_live(applied: Applied, planned: dict[str, "Future[Any]"]) -> None:
    """moto knows no canaries: by plan. A revision that is not that of api.json is refused, with the right one named."""
    assert planned["canary"].result() == {'module.edge.aws_api_gateway_deployment.this["00000000"]': "create", STAGE: "update"}
    assert f"its revision is {_live(applied.terraform)}" in " ".join(planned["unknown"].result().stderr.split())


def test_buckets(applied: Applied) -> None:
    s3 = applied.client("s3")
    assert {b["Name"] for b in s3.list_buckets()["Buckets"]} == BUCKETS
    for bucket in BUCKETS:
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
        assert denies_http(json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]))
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
        assert rule["SSEAlgorithm"] == ("AES256" if bucket.endswith("-logs") else "aws:kms")
        if not bucket.endswith("-logs"):
            assert s3.get_bucket_logging(Bucket=bucket)["LoggingEnabled"]["TargetBucket"] == f"{NAME}-123456789012-logs"


def test_every_route_is_at_the_edge(applied: Applied) -> None:
    """By method and integration as moto read them from the document; it reads no security from one, which the rules check on the document itself."""
    edge = applied.client("apigateway")
    (api,) = edge.get_rest_apis()["items"]
    found = {r["path"]: r for r in edge.get_resources(restApiId=api["id"], limit=500)["items"]}
    stage = edge.get_stage(restApiId=api["id"], stageName="live")
    document = json.loads((CLONE / "terraform/modules/edge/api.json").read_text())
    for path, methods in document["paths"].items():
        for method in methods:
            passed = edge.get_integration(restApiId=api["id"], resourceId=found[path]["id"], httpMethod=method.upper())
            assert (passed["type"].upper(), passed["connectionType"], passed["timeoutInMillis"]) == ("HTTP_PROXY", "VPC_LINK", 29_000)
            assert passed["uri"] == f"http://${{stageVariables.gateway}}{path.replace('+}', '}')}"
            settings = stage["methodSettings"][f"{path.replace('/', '~1')}/{method.upper()}"]
            assert settings["throttlingRateLimit"] == {"/v1/answers": 20.0, "/v1/search": 40.0}.get(path, 5.0 if method in ("put", "delete") else 20.0)
            assert settings["metricsEnabled"] and not settings["dataTraceEnabled"]
    assert sum(len(r.get("resourceMethods", {})) for r in found.values()) == sum(map(len, document["paths"].values()))


def test_the_stage_knows_where_to_and_with_which_key(applied: Applied) -> None:
    edge, secrets = applied.client("apigateway"), applied.client("secretsmanager")
    (api,) = edge.get_rest_apis()["items"]
    variables = edge.get_stage(restApiId=api["id"], stageName="live")["variables"]
    (balancer,) = applied.client("elbv2").describe_load_balancers()["LoadBalancers"]
    (link,) = edge.get_vpc_links()["items"]
    keys = {letter: secrets.get_secret_value(SecretId=f"{NAME}/edge-key-{letter}")["SecretString"] for letter in "ab"}
    assert variables == {"gateway": balancer["DNSName"], "vpc_link": link["id"], "edge_key": keys["a"]}
    assert link["targetArns"] == [balancer["LoadBalancerArn"]]
    assert keys["a"] != keys["b"] and all(len(key) >= 32 and key.isalnum() for key in keys.values())


def test_the_keys_are_known_to_the_stage_alone(applied: Applied) -> None:
    """Made by Secrets Manager and written without Terraform seeing them, but for the one that the stage needs."""
    unsent = applied.client("secretsmanager").get_secret_value(SecretId=f"{NAME}/edge-key-b")["SecretString"]
    assert [r["address"] for r in applied.state if unsent in json.dumps(r)] == []


def test_each_client_has_a_key_a_rate_and_a_quota(applied: Applied) -> None:
    edge = applied.client("apigateway")
    (plan,) = edge.get_usage_plans()["items"]
    assert (plan["throttle"], plan["quota"]["limit"], plan["quota"]["period"]) == ({"rateLimit": 2.0, "burstLimit": 4}, 10_000, "DAY")
    (key,) = edge.get_usage_plan_keys(usagePlanId=plan["id"])["items"]
    assert len(edge.get_api_key(apiKey=key["id"], includeValue=True)["value"]) >= 20


def test_a_firewall_stands_before_it(applied: Applied) -> None:
    waf = applied.client("wafv2")
    (listed,) = waf.list_web_acls(Scope="REGIONAL")["WebACLs"]
    rules = {r["Name"]: r for r in waf.get_web_acl(Name=NAME, Scope="REGIONAL", Id=listed["Id"])["WebACL"]["Rules"]}
    managed = {"AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet", "AWSManagedRulesAmazonIpReputationList"}
    assert set(rules) == {"rate", "body-size", *managed}
    assert all("Block" in rules[name]["Action"] for name in ("rate", "body-size"))


def test_only_the_edges_balancer_reaches_the_gateway(applied: Applied) -> None:
    ec2 = applied.client("ec2")
    groups = {g["GroupName"]: g for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"].startswith(NAME)}
    assert groups[f"{NAME}-balancer"]["IpPermissions"] == []
    (into_pods,) = groups[f"{NAME}-cluster"]["IpPermissions"]
    assert (into_pods["FromPort"], into_pods["ToPort"]) == (8080, 8080)
    assert [g["GroupId"] for g in into_pods["UserIdGroupPairs"]] == [groups[f"{NAME}-balancer"]["GroupId"]]
    (into_database,) = groups[f"{NAME}-database"]["IpPermissions"]
    assert [g["GroupId"] for g in into_database["UserIdGroupPairs"]] == [groups[f"{NAME}-cluster"]["GroupId"]]
    world = [g["GroupName"] for g in groups.values() for rule in g["IpPermissions"] for at in rule["IpRanges"] if at["CidrIp"] == "0.0.0.0/0"]
    assert world == []


def test_everything_kept_is_encrypted_with_our_key(applied: Applied) -> None:
    (alias,) = [a for a in applied.client("kms").list_aliases()["Aliases"] if a["AliasName"] == f"alias/{NAME}"]
    key = alias["TargetKeyId"]
    assert all(r["encryptionConfiguration"]["kmsKey"].endswith(key) for r in applied.client("ecr").describe_repositories()["repositories"])
    (database,) = applied.client("rds").describe_db_instances()["DBInstances"]
    assert database["StorageEncrypted"] and database["KmsKeyId"].endswith(key) and database["MasterUserSecret"]["KmsKeyId"].endswith(key)
    ours = [g for g in applied.client("logs").describe_log_groups()["logGroups"] if "quarry" in g["logGroupName"]]
    assert len(ours) == 5 and all(g["kmsKeyId"].endswith(key) and g["retentionInDays"] for g in ours)
    assert all(s["KmsKeyId"].endswith(key) for s in applied.client("secretsmanager").list_secrets()["SecretList"])
    (encryption,) = applied.client("eks").describe_cluster(name=NAME)["cluster"]["encryptionConfig"]
    assert encryption["provider"]["keyArn"].endswith(key)
