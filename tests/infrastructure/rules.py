"""What holds for everything that Terraform makes, over the resources of a state or of a plan's outcome; each rule gives the addresses that break it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from policies import listed, statements

Resource = dict[str, Any]
Rule = Callable[[list[Resource]], Iterator[str]]
WORLD = ("0.0.0.0/0", "::/0")
# Actions for which AWS takes no narrower resource.
UNBOUND = (
    "ecr:GetAuthorizationToken",
    "secretsmanager:GetRandomPassword",
    "elasticloadbalancing:Describe*",
    "ec2:Describe*",
    "ec2:GetInstanceTypesFromInstanceRequirements",
    "autoscaling:Describe*",
)
GITHUB = "token.actions.githubusercontent.com"
# Where AWS itself allows no KMS key: S3 delivers access logs to no other bucket.
WITHOUT_KMS = {"logs"}


def of(resources: list[Resource], *types: str) -> list[tuple[str, dict[str, Any]]]:
    """Address and values of the resources of these types."""
    return [(r["address"], r["values"]) for r in resources if r["type"] in types]


def buckets_are_private(resources: list[Resource]) -> Iterator[str]:
    """Each bucket blocks all four ways of being public, is versioned, and denies plain HTTP to everyone for everything."""
    names = {a: r["index"] for r in resources if r["type"] == "aws_s3_bucket" for a in [r["address"]]}
    kinds = ("aws_s3_bucket_public_access_block", "aws_s3_bucket_versioning", "aws_s3_bucket_policy", "aws_s3_bucket_ownership_controls")
    found = {kind: {r["index"]: r["values"] for r in resources if r["type"] == kind} for kind in kinds}
    for address, name in names.items():
        blocked, versioned, policy, owned = (found[kind].get(name, {}) for kind in kinds)
        four = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
        kept = all(blocked.get(way) for way in four) and versioned and versioned["versioning_configuration"][0]["status"] == "Enabled" and owned
        if not kept or name not in found["aws_s3_bucket_policy"] or not denies_http(json.loads(policy["policy"])):
            yield address


def denies_http(policy: dict[str, Any]) -> bool:
    """Whether a bucket policy denies everyone everything without TLS, and allows nothing to everyone."""
    tls = {"Bool": {"aws:SecureTransport": "false"}}
    told = statements([policy])
    denied = any(s["Effect"] == "Deny" and s["Principal"] in ("*", {"AWS": "*"}) and s["Action"] == "s3:*" and s["Condition"] == tls for s in told)
    return denied and not any(s["Effect"] == "Allow" and s["Principal"] in ("*", {"AWS": "*"}) for s in told)


def everything_is_encrypted(resources: list[Resource]) -> Iterator[str]:
    """With the environment's own key: buckets, images, database, logs, secrets, Kubernetes Secrets, alarms; disks with the account's."""
    for address, rule in of(resources, "aws_s3_bucket_server_side_encryption_configuration"):
        default = rule["rule"][0]["apply_server_side_encryption_by_default"][0]
        if default["sse_algorithm"] != "aws:kms" and not any(f'"{name}"' in address for name in WITHOUT_KMS):
            yield address
    needed = {
        "aws_ecr_repository": lambda v: v["encryption_configuration"][0]["encryption_type"] == "KMS",
        "aws_db_instance": lambda v: v["storage_encrypted"] and v["manage_master_user_password"],
        "aws_cloudwatch_log_group": lambda v: v.get("kms_key_id", True) and v["retention_in_days"] > 0,
        "aws_secretsmanager_secret": lambda v: v.get("kms_key_id", True),
        "aws_sns_topic": lambda v: v.get("kms_master_key_id", True),
        "aws_eks_cluster": lambda v: any("secrets" in c["resources"] for c in v["encryption_config"]),
        "aws_launch_template": lambda v: v["block_device_mappings"][0]["ebs"][0]["encrypted"] == "true" and _imds_v2(v["metadata_options"][0]),
        "aws_kms_key": lambda v: v["enable_key_rotation"],
    }
    for kind, holds in needed.items():
        yield from (address for address, values in of(resources, kind) if not holds(values))


def _imds_v2(options: dict[str, Any]) -> bool:
    return bool(options["http_tokens"] == "required" and options["http_put_response_hop_limit"] == 1)


def nothing_is_open(resources: list[Resource]) -> Iterator[str]:
    """No rule lets the world in, nor anyone into the edge's balancer; database and cluster are not public."""
    for address, rule in of(resources, "aws_vpc_security_group_ingress_rule"):
        if rule.get("cidr_ipv4") in WORLD or rule.get("cidr_ipv6") in WORLD or rule["ip_protocol"] == "-1" or "balancer" in address:
            yield address
    yield from (a for a, v in of(resources, "aws_security_group") if any(set(i["cidr_blocks"]) & set(WORLD) for i in v.get("ingress") or []))
    yield from (a for a, v in of(resources, "aws_db_instance") if v["publicly_accessible"])
    yield from (a for a, v in of(resources, "aws_lb") if not v["internal"])
    for address, cluster in of(resources, "aws_eks_cluster"):
        access = cluster["vpc_config"][0]
        if access["endpoint_public_access"] and set(access.get("public_access_cidrs") or WORLD) & set(WORLD):
            yield address


def policies_are_narrow(resources: list[Resource]) -> Iterator[str]:
    """No action is a whole service or more, no resource is everything but where AWS takes nothing narrower, and roles are handed to named services."""
    for address, values in of(resources, "aws_iam_role_policy", "aws_iam_policy"):
        for statement in statements([json.loads(values["policy"])]) if values.get("policy") else []:
            actions = listed(statement["Action"])
            if statement["Effect"] == "Allow" and not (
                all("*" not in action for action in actions)
                and ("*" not in listed(statement["Resource"]) or all(_unbound(action) for action in actions))
                and ("iam:PassRole" not in actions or "iam:PassedToService" in json.dumps(statement.get("Condition", {})))
            ):
                yield address


def _unbound(action: str) -> bool:
    return any(action == known or (known.endswith("*") and action.startswith(known[:-1])) for known in UNBOUND)


def github_roles_are_bound(resources: list[Resource]) -> Iterator[str]:
    """A role that tokens of GitHub take names this repository and one environment, one that Jenkins' take names a job, and both the audience; no wildcards."""
    for address, role in of(resources, "aws_iam_role"):
        for statement in statements([json.loads(role["assume_role_policy"])]) if role.get("assume_role_policy") else []:
            if "sts:AssumeRoleWithWebIdentity" not in listed(statement["Action"]):
                continue
            exact = statement.get("Condition", {}).get("StringEquals", {})
            issuer = str(statement["Principal"]["Federated"]).partition(":oidc-provider/")[2]
            sub, wanted = str(exact.get(f"{issuer}:sub", "*")), ":environment:" if issuer == GITHUB else "/job/"
            if "*" in sub or wanted not in sub or exact.get(f"{issuer}:aud") != "sts.amazonaws.com":
                yield address


def routes_are_guarded(resources: list[Resource]) -> Iterator[str]:
    """Every operation of the API asks for credentials, is checked, goes by the VPC link with the edge's key, and none is without a throttle."""
    settings = {v["method_path"] for _, v in of(resources, "aws_api_gateway_method_settings") if 0 < v["settings"][0]["throttling_rate_limit"] < 10_000}
    for address, api in of(resources, "aws_api_gateway_rest_api"):
        body = json.loads(api["body"])
        scheme = body["components"]["securitySchemes"]["edge"]
        if scheme["name"] != "x-api-key" and scheme.get("x-amazon-apigateway-authtype") != "cognito_user_pools":
            yield f"{address}: scheme"
        for path, methods in body["paths"].items():
            for method, operation in methods.items():
                passed = operation["x-amazon-apigateway-integration"]
                guarded = operation.get("security") == [{"edge": []}] and operation.get("x-amazon-apigateway-request-validator") == "all"
                private = passed["connectionType"] == "VPC_LINK" and passed["timeoutInMillis"] <= 29_000
                keyed = passed["requestParameters"].get("integration.request.header.X-Quarry-Edge") == "stageVariables.edge_key"
                if not (guarded and private and keyed and f"{path.replace('/', '~1')}/{method.upper()}" in settings):
                    yield f"{address}: {method} {path}"


def the_edge_is_watched(resources: list[Resource]) -> Iterator[str]:
    """A firewall stands before the stage, the stage logs without bodies, traces nothing, and the alarms publish somewhere."""
    stages = of(resources, "aws_api_gateway_stage")
    if len(of(resources, "aws_wafv2_web_acl_association")) != len(stages):
        yield "aws_wafv2_web_acl_association"
    for address, stage in stages:
        written = (stage.get("access_log_settings") or [{}])[0].get("format", "")
        if not written or "body" in written.lower() or "$input" in written:
            yield address
    yield from (a for a, v in of(resources, "aws_api_gateway_method_settings") if v["settings"][0]["data_trace_enabled"])
    yield from (a for a, v in of(resources, "aws_cloudwatch_metric_alarm") if not v.get("alarm_actions", True))


def images_are_immutable(resources: list[Resource]) -> Iterator[str]:
    """A tag means one image for ever, and each is scanned."""
    for address, image in of(resources, "aws_ecr_repository"):
        if image["image_tag_mutability"] != "IMMUTABLE" or not image["image_scanning_configuration"][0]["scan_on_push"]:
            yield address


RULES: tuple[Rule, ...] = (
    buckets_are_private,
    everything_is_encrypted,
    nothing_is_open,
    policies_are_narrow,
    github_roles_are_bound,
    routes_are_guarded,
    the_edge_is_watched,
    images_are_immutable,
)


def broken(resources: list[Resource]) -> dict[str, list[str]]:
    """Rule -> the addresses that break it."""
    found = {rule.__name__: sorted(set(rule(resources))) for rule in RULES}
    return {name: addresses for name, addresses in found.items() if addresses}
