"""Plants one fault at a time in a copy of terraform/ and sees whether the tests' rules catch it: `.venv/bin/python faults.py`; exit code 1 if not all.

An environment is applied to moto first, so that in every plan after that the policies and addresses are known.
"""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rules
from policies import documents
from runner import Missing, Resource, Terraform, mirror, moto, prepare, resources
from test_workloads import MUST, NAME, wrong

Catch = Callable[[list[Resource]], list[str]]


def least_privilege(planned: list[Resource]) -> list[str]:
    """What the lists of test_workloads.py say of the planned policies."""
    policies = {v["role"].removeprefix(f"{NAME}-"): documents([v["policy"]]) for _, v in rules.of(planned, "aws_iam_role_policy") if "policy" in v}
    return [f"{role}: {what}" for role in MUST for what in wrong(role, policies[role])]


def by(rule: rules.Rule) -> Catch:
    """A rule as a catch."""
    return lambda planned: sorted(rule(planned))


@dataclass(frozen=True)
class Fault:
    """In this module's file, this text becomes that; and what has to catch it."""

    name: str
    file: str
    old: str
    new: str
    catch: Catch


BUCKETS, OPEN, NARROW, KEYS = by(rules.buckets_are_private), by(rules.nothing_is_open), by(rules.policies_are_narrow), by(rules.everything_is_encrypted)
ROUTES, WATCHED = by(rules.routes_are_guarded), by(rules.the_edge_is_watched)
FETCH = 'actions   = ["s3:GetObject"]\n    resources = ["${local.artefacts}/releases/*"]'
PASS = 'actions   = ["iam:PassRole"]\n    resources = [local.roles]\n    condition {\n      test     = "StringEquals"\n      variable = "iam:PassedToService"'
FAULTS = (
    Fault("a bucket may be made public", "storage/buckets.tf", "block_public_policy     = true", "block_public_policy     = false", BUCKETS),
    Fault("plain HTTP to buckets", "storage/policy.tf", 'values   = ["false"]', 'values   = ["true"]', BUCKETS),
    Fault("buckets without versions", "storage/buckets.tf", 'status = "Enabled"\n  }\n}', 'status = "Suspended"\n  }\n}', BUCKETS),
    Fault("a role with a whole service", "identity/objects.tf", FETCH, FETCH.replace("s3:GetObject", "s3:*"), NARROW),
    Fault("a role on every resource", "identity/objects.tf", FETCH, FETCH.replace("${local.artefacts}/releases/*", "*"), NARROW),
    Fault("a role handed to any service", "identity/terraform.tf", PASS, PASS.replace("iam:PassedToService", "aws:PrincipalTag"), NARROW),
    Fault("the reader reads documents", "identity/objects.tf", FETCH, FETCH.replace("artefacts}/releases", "documents}"), least_privilege),
    Fault("ingestion may delete documents", "identity/objects.tf", '"s3:GetObjectVersion"', '"s3:DeleteObject"', least_privilege),
    Fault(
        "External Secrets reads every secret",
        "identity/platform.tf",
        "resources = var.secret_arns",
        'resources = ["arn:aws:secretsmanager:*:*:secret:*"]',
        least_privilege,
    ),
    Fault("apply may change its own role", "identity/terraform.tf", 'effect = "Deny"', 'effect = "Allow"', least_privilege),
    Fault("nightly reads every secret", "identity/github.tf", "resources = [var.canary_secret_arn]", "resources = var.secret_arns", least_privilege),
    Fault("nightly may write backups", "identity/github.tf", 'actions   = ["s3:GetObject"]', 'actions   = ["s3:GetObject", "s3:PutObject"]', least_privilege),
    Fault("pipelines pushes images", "identity/github.tf", "policy_document.pipelines.json", "policy_document.images.json", least_privilege),
    Fault("any job of Jenkins", "identity/jenkins.tf", 'try(var.jenkins.job, "")', '"https://jenkins.example.com/*"', by(rules.github_roles_are_bound)),
    Fault("any branch takes GitHub's roles", "identity/github.tf", ":environment:${each.value}", ":*", by(rules.github_roles_are_bound)),
    Fault(
        "the database open to the world", "database/postgres.tf", "referenced_security_group_id = var.client_security_group_id", 'cidr_ipv4 = "0.0.0.0/0"', OPEN
    ),
    Fault("a public database", "database/postgres.tf", "publicly_accessible    = false", "publicly_accessible    = true", OPEN),
    Fault("a balancer on the internet", "edge/balancer.tf", "internal                         = true", "internal = false", OPEN),
    Fault("a database in the clear", "database/postgres.tf", "storage_encrypted     = true", "storage_encrypted     = false", KEYS),
    Fault("logs in the clear", "observability/logs.tf", "kms_key_id        = var.key_arn", "", KEYS),
    Fault("metadata without a token", "cluster/nodes.tf", '= "required"', '= "optional"', KEYS),
    Fault("tags that move", "registry/repositories.tf", '"IMMUTABLE"', '"MUTABLE"', by(rules.images_are_immutable)),
    Fault("a route without credentials", "edge/api.json", '"edge": []', '"nobody": []', ROUTES),
    Fault("a route without the edge's key", "edge/api.json", '"stageVariables.edge_key"', '"method.request.header.X-Quarry-Edge"', ROUTES),
    Fault("no throttle", "edge/stage.tf", 'lookup(var.throttle, each.key, var.throttle["default"]).rate', "-1", ROUTES),
    Fault("questions in the log", "edge/stage.tf", "data_trace_enabled     = false", "data_trace_enabled     = true", WATCHED),
    Fault("no firewall", "edge/firewall.tf", '"aws_wafv2_web_acl_association" "this" {', '"aws_wafv2_web_acl_association" "this" {\n  count = 0', WATCHED),
)


def planted(terraform: Terraform, fault: Fault) -> list[str]:
    """What catches the fault; the copy is as before afterwards."""
    path, settings = terraform.copy / "modules" / fault.file, terraform.folder / "settings.tf"
    sound, sound_settings = path.read_text(), settings.read_text()
    assert fault.old in sound, f"{fault.file} has no {fault.old!r} any more"
    try:
        path.write_text(sound.replace(fault.old, fault.new, 1))
        if path.name == "api.json":  # somebody who changes it by hand names the new revision too
            settings.write_text(sound_settings.replace(_revision(sound), _revision(path.read_text())))
        return fault.catch(resources(terraform.plan(refresh=False)))
    finally:
        path.write_text(sound)
        settings.write_text(sound_settings)


def _revision(api: str) -> str:
    return hashlib.sha256(f"api_key {api}".encode()).hexdigest()[:8]


def main() -> int:
    """Plant them all; prints a line each, then how many were caught."""
    try:
        mirror()
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, moto(Path(folder) / "moto.log") as address:
        terraform = prepare(Path(folder) / "copy", "staging", address, applied=True)
        terraform.run("apply", "-input=false", "-no-color", "-auto-approve")
        sound = resources(terraform.plan(refresh=False))
        assert rules.broken(sound) == {} and least_privilege(sound) == []
        caught = 0
        for fault in FAULTS:
            found = planted(terraform, fault)
            caught += bool(found)
            print(f"{'caught' if found else 'MISSED'}  {fault.name}  {found[:1]}", flush=True)
    print(f"{caught} of {len(FAULTS)} planted faults caught")
    return 0 if caught == len(FAULTS) else 1


if __name__ == "__main__":
    sys.exit(main())
