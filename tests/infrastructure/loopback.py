"""What has to differ for moto's sake, as Terraform override files in a copy of terraform/: nothing of it is in terraform/ itself.

moto 5.2 lacks some of AWS, and reads some things back as other than they were set. Each is named here with what is done instead; what is left out
of the apply is asserted by the plan (test_plans.py), which runs without the overrides of `APPLIED`.
"""

import json

PROVIDER = """
terraform {
  backend "local" {}
}

provider "aws" {
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true
  max_retries                 = 2
}
"""

# Not in moto at all: planned, not applied.
LACKING = (
    "aws_eks_addon",
    "aws_eks_pod_identity_association",
    "aws_eks_access_entry",
    "aws_eks_access_policy_association",
    "aws_budgets_budget",  # its subscribers cannot be read back
)
_CLUSTER_LACKS = (
    'aws_eks_addon" "network',
    'aws_eks_addon" "pods',
    'aws_eks_pod_identity_association" "this',
    'aws_eks_access_entry" "this',
    'aws_eks_access_policy_association" "this',
)

_TOLD = "description"

# Set, and not read back as set: without this a second plan would set it again.
FORGOTTEN = {
    "cluster": {
        'aws_eks_cluster" "this': "access_config, bootstrap_self_managed_addons",
        'aws_eks_node_group" "this': "remote_access, update_config, scaling_config[0].desired_size",
        'aws_launch_template" "node': "tag_specifications",
    },
    "database": {
        'aws_db_instance" "this': "performance_insights_enabled, performance_insights_kms_key_id",
        'aws_db_parameter_group" "this': "parameter",
        'aws_vpc_security_group_ingress_rule" "this': _TOLD,
    },
    "edge": {
        'aws_lb" "this': "enforce_security_group_inbound_rules_on_private_link_traffic",
        'aws_vpc_security_group_ingress_rule" "gateway': _TOLD,
        'aws_vpc_security_group_egress_rule" "balancer': _TOLD,
    },
}

# moto's clusters have no security group of their own.
_CLUSTER_GROUP = """
data "aws_subnet" "loopback" {
  id = var.subnet_ids[0]
}

resource "aws_security_group" "loopback" {
  name        = "${var.name}-cluster"
  description = "What EKS makes for a cluster"
  vpc_id      = data.aws_subnet.loopback.vpc_id
}
"""
_CLUSTER_GROUP_OUTPUT = """
output "security_group_id" {
  value = aws_security_group.loopback.id
}
"""


def _ignoring(kept: dict[str, str]) -> str:
    return "".join(f'resource "{name}" {{\n  lifecycle {{\n    ignore_changes = [{what}]\n  }}\n}}\n' for name, what in kept.items())


# The applied environment has a Jenkins too, so that what its jobs may take is known.
JENKINS = {"issuer": "https://jenkins.example.com/oidc", "job": "https://jenkins.example.com/job/quarry/job/main/"}

# File below terraform/ -> what it holds; only for what is applied.
APPLIED = {
    **{f"envs/{name}/jenkins.auto.tfvars.json": json.dumps({"jenkins": JENKINS}) for name in ("dev", "staging", "production")},
    **{f"modules/{module}/forgotten_override.tf": _ignoring(kept) for module, kept in FORGOTTEN.items()},
    "modules/cluster/lacking_override.tf": "".join(f'resource "{name}" {{\n  for_each = {{}}\n}}\n' for name in _CLUSTER_LACKS) + _CLUSTER_GROUP_OUTPUT,
    "modules/cluster/loopback.tf": _CLUSTER_GROUP,
    "modules/observability/lacking_override.tf": 'resource "aws_budgets_budget" "this" {\n  count = 0\n}\n',
}

# The firewall's rules are half of each plan's arithmetic (their schema is a statement in a statement in a statement), and the same in every
# environment: they are applied in the one that is asked about them, planned in all, and elsewhere one stands for them.
FIREWALL = "modules/edge/firewall_override.tf"


def one_rule(firewall: str) -> str:
    """Of the text of firewall.tf, an override with its first rule alone."""
    rule, end = firewall[firewall.index("  rule {\n") :], "\n  }\n"
    return f'resource "aws_wafv2_web_acl" "this" {{\n{rule[: rule.index(end)]}{end}}}\n'
