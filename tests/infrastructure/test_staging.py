"""What boto3 finds in moto of the applied environment."""

import json

from conftest import Applied
from rules import denies_http
from runner import CLONE

NAME = "quarry-staging"
BUCKETS = {f"{NAME}-123456789012-{kind}" for kind in ("artefacts", "backups", "documents", "logs")}


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
