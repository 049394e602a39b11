"""Last of all: what was made can be taken away, and nothing is left."""

from conftest import Applied

NAME = "quarry-dev"


def test_destroy_leaves_nothing(destroyed: Applied) -> None:
    assert len(destroyed.state) > 150  # it was there
    assert destroyed.terraform.state() == []
    assert destroyed.client("s3").list_buckets()["Buckets"] == []
    assert destroyed.client("rds").describe_db_instances()["DBInstances"] == []
    assert destroyed.client("eks").list_clusters()["clusters"] == []
    assert destroyed.client("apigateway").get_rest_apis()["items"] == []
    assert destroyed.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert destroyed.client("secretsmanager").list_secrets()["SecretList"] == []
    assert [r["RoleName"] for r in destroyed.client("iam").list_roles()["Roles"] if r["RoleName"].startswith(NAME)] == []
    groups = [g["GroupName"] for g in destroyed.client("ec2").describe_security_groups()["SecurityGroups"]]
    assert not any(name.startswith(NAME) for name in groups)
