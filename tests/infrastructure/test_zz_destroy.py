"""Last of all: what was made can be taken away, and nothing is left."""

from conftest import Applied

NAME = "quarry-staging"


def test_destroy_leaves_nothing(applied: Applied) -> None:
    applied.terraform.run("destroy", "-input=false", "-no-color", "-auto-approve")
    assert applied.terraform.state() == []
    assert applied.client("s3").list_buckets()["Buckets"] == []
    assert applied.client("rds").describe_db_instances()["DBInstances"] == []
    assert applied.client("eks").list_clusters()["clusters"] == []
    assert applied.client("apigateway").get_rest_apis()["items"] == []
    assert applied.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert applied.client("secretsmanager").list_secrets()["SecretList"] == []
    assert [r["RoleName"] for r in applied.client("iam").list_roles()["Roles"] if r["RoleName"].startswith(NAME)] == []
    groups = [g["GroupName"] for g in applied.client("ec2").describe_security_groups()["SecurityGroups"]]
    assert not any(name.startswith(NAME) for name in groups)
