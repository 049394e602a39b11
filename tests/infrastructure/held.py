"""What moto holds, asked by boto3: of each kind that Terraform makes and that is listed by itself, and of what AWS makes on the way.

Not asked: network interfaces, and the rules that a network begins with, both of which moto leaves behind where AWS takes them along.
"""

from typing import Any

import boto3

from runner import REGION

# Kind -> service, call, where in the reply, and what one is known by.
LISTED: dict[str, tuple[str, str, str, str]] = {
    "aws_api_gateway_api_key": ("apigateway", "get_api_keys", "items", "id"),
    "aws_api_gateway_rest_api": ("apigateway", "get_rest_apis", "items", "id"),
    "aws_api_gateway_usage_plan": ("apigateway", "get_usage_plans", "items", "id"),
    "aws_api_gateway_vpc_link": ("apigateway", "get_vpc_links", "items", "id"),
    "aws_cloudwatch_log_group": ("logs", "describe_log_groups", "logGroups", "logGroupName"),
    "aws_cloudwatch_metric_alarm": ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    "aws_db_instance": ("rds", "describe_db_instances", "DBInstances", "DBInstanceIdentifier"),
    "aws_db_parameter_group": ("rds", "describe_db_parameter_groups", "DBParameterGroups", "DBParameterGroupName"),
    "aws_db_subnet_group": ("rds", "describe_db_subnet_groups", "DBSubnetGroups", "DBSubnetGroupName"),
    "a database's snapshot": ("rds", "describe_db_snapshots", "DBSnapshots", "DBSnapshotIdentifier"),
    "aws_ecr_repository": ("ecr", "describe_repositories", "repositories", "repositoryName"),
    "aws_eip": ("ec2", "describe_addresses", "Addresses", "AllocationId"),
    "aws_eks_cluster": ("eks", "list_clusters", "clusters", ""),
    "aws_flow_log": ("ec2", "describe_flow_logs", "FlowLogs", "FlowLogId"),
    "aws_iam_openid_connect_provider": ("iam", "list_open_id_connect_providers", "OpenIDConnectProviderList", "Arn"),
    "aws_iam_role": ("iam", "list_roles", "Roles", "RoleName"),
    "aws_internet_gateway": ("ec2", "describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "aws_kms_alias": ("kms", "list_aliases", "Aliases", "AliasName"),
    "aws_kms_key": ("kms", "list_keys", "Keys", "KeyId"),
    "aws_launch_template": ("ec2", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateName"),
    "aws_lb": ("elbv2", "describe_load_balancers", "LoadBalancers", "LoadBalancerName"),
    "aws_lb_target_group": ("elbv2", "describe_target_groups", "TargetGroups", "TargetGroupName"),
    "aws_nat_gateway": ("ec2", "describe_nat_gateways", "NatGateways", "NatGatewayId"),
    "aws_route_table": ("ec2", "describe_route_tables", "RouteTables", "RouteTableId"),
    "aws_s3_bucket": ("s3", "list_buckets", "Buckets", "Name"),
    "aws_secretsmanager_secret": ("secretsmanager", "list_secrets", "SecretList", "Name"),
    "aws_security_group": ("ec2", "describe_security_groups", "SecurityGroups", "GroupId"),
    "aws_sns_topic": ("sns", "list_topics", "Topics", "TopicArn"),
    "aws_sns_topic_subscription": ("sns", "list_subscriptions", "Subscriptions", "SubscriptionArn"),
    "aws_subnet": ("ec2", "describe_subnets", "Subnets", "SubnetId"),
    "aws_vpc": ("ec2", "describe_vpcs", "Vpcs", "VpcId"),
    "aws_vpc_endpoint": ("ec2", "describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "aws_wafv2_web_acl": ("wafv2", "list_web_acls", "WebACLs", "Name"),
    "a machine": ("ec2", "describe_instances", "Reservations", "ReservationId"),
    "a group of machines": ("autoscaling", "describe_auto_scaling_groups", "AutoScalingGroups", "AutoScalingGroupName"),
}
# What is a part of one of these, and is there and goes with it.
PARTS = {
    "aws_api_gateway_": ("account", "deployment", "method_settings", "stage", "usage_plan_key"),
    "aws_ecr_": ("lifecycle_policy",),
    "aws_eks_": ("node_group",),
    "aws_iam_": ("role_policy", "role_policy_attachment"),
    "aws_lb_": ("listener",),
    "aws_s3_bucket_": ("lifecycle_configuration", "logging", "ownership_controls", "policy", "public_access_block", "versioning"),
    "aws_s3_bucket_server_side_": ("encryption_configuration",),
    "aws_secretsmanager_": ("secret_version",),
    "aws_vpc_": ("security_group_ingress_rule", "security_group_egress_rule"),
    "aws_wafv2_web_acl_": ("association", "logging_configuration"),
    "aws_": ("default_security_group", "route", "route_table_association"),
}
KINDS = {*LISTED, *(f"{of}{part}" for of, parts in PARTS.items() for part in parts)}


def client(address: str, service: str) -> Any:
    """boto3 on a moto."""
    return boto3.client(service, endpoint_url=address, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")


def held(address: str) -> dict[str, set[str]]:
    """Kind -> what there is of it; without what is listed for a while after its end: NAT gateways, endpoints, and KMS keys, which AWS keeps for their days."""
    found = {kind: {one[by] if by else one for one in _all(client(address, service), call, key)} for kind, (service, call, key, by) in LISTED.items()}
    kms, ec2 = client(address, "kms"), client(address, "ec2")
    found["aws_kms_key"] = {key for key in found["aws_kms_key"] if kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"}
    found["aws_nat_gateway"] = {one["NatGatewayId"] for one in ec2.describe_nat_gateways()["NatGateways"] if one["State"] != "deleted"}
    found["aws_vpc_endpoint"] = {one["VpcEndpointId"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"] if one["State"] != "deleted"}
    return found


def _all(service: Any, call: str, key: str) -> list[Any]:
    given = {"Scope": "REGIONAL"} if call == "list_web_acls" else {}
    pages = service.get_paginator(call).paginate(**given) if service.can_paginate(call) else [getattr(service, call)(**given)]
    return [one for page in pages for one in page[key]]
