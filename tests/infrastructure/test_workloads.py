"""Least privilege: for each role, calls that must go through and calls that must not, decided on the policies that moto holds."""

from typing import Any

import pytest

from conftest import Applied
from loopback import JENKINS
from policies import Document, allowed, documents, statements

NAME, ACCOUNT, REGION = "quarry-staging", "123456789012", "eu-central-1"
DOCUMENTS, ARTEFACTS, BACKUPS, LOGS = (f"arn:aws:s3:::{NAME}-{ACCOUNT}-{kind}" for kind in ("documents", "artefacts", "backups", "logs"))
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret"
ROLE = f"arn:aws:iam::{ACCOUNT}:role"
CLUSTER = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{NAME}"
REPOSITORY = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository"
Call = tuple[str, str, dict[str, str]]


def call(action: str, resource: str = "*", **context: str) -> Call:
    return action, resource, context


GET, PUT, DELETE, LIST = "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"
MODEL = f"{ARTEFACTS}/releases/3f0c/reader/model.onnx"
# What nobody that runs in a pod or on GitHub may do.
NEVER = (
    call("iam:CreateUser", f"arn:aws:iam::{ACCOUNT}:user/x"),
    call("iam:CreateAccessKey", f"arn:aws:iam::{ACCOUNT}:user/x"),
    call("iam:AttachRolePolicy", f"{ROLE}/administrator"),
    call("sts:AssumeRole", f"{ROLE}/administrator"),
    call("s3:PutBucketPolicy", DOCUMENTS),
    call("s3:DeleteBucket", DOCUMENTS),
    call("s3:PutBucketPublicAccessBlock", DOCUMENTS),
    call(GET, "arn:aws:s3:::somebody-elses/x"),
    call("kms:ScheduleKeyDeletion", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/x"),
)
SERVING = (
    (call(GET, MODEL), call(LIST, ARTEFACTS, s3_prefix="releases/3f0c")),
    (
        call(PUT, MODEL),
        call(DELETE, MODEL),
        call(GET, f"{ARTEFACTS}/mlflow/1/model"),
        call(GET, f"{ARTEFACTS}/datasets/train.json"),
        call(LIST, ARTEFACTS, s3_prefix="mlflow/"),
        call(LIST, ARTEFACTS),
        call(GET, f"{DOCUMENTS}/a.pdf"),
        call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/edge-key-a-x"),
    ),
)
# Role -> what must go through, what must not.
MUST: dict[str, tuple[tuple[Call, ...], tuple[Call, ...]]] = {
    "reader": SERVING,
    "retriever": SERVING,
    "ingestion": (
        (
            call(GET, f"{DOCUMENTS}/a/b.pdf"),
            call(LIST, DOCUMENTS),
            call(GET, MODEL),
            call(PUT, f"{BACKUPS}/2026-11-25T02-00-00Z/ledger.db"),
            call(PUT, f"{BACKUPS}/latest"),
        ),
        (
            call(PUT, f"{DOCUMENTS}/a.pdf"),
            call(DELETE, f"{DOCUMENTS}/a.pdf"),
            call(PUT, MODEL),
            call(GET, f"{LOGS}/s3/x"),
            call(PUT, f"{ARTEFACTS}/backups/latest"),
            call(GET, f"{BACKUPS}/latest"),
            call(DELETE, f"{BACKUPS}/latest"),
        ),
    ),
    "training": (
        (
            call(GET, f"{ARTEFACTS}/datasets/train.json"),
            call(PUT, f"{ARTEFACTS}/mlflow/1/model"),
            call(PUT, MODEL),
            call(LIST, ARTEFACTS, s3_prefix="mlflow/1"),
        ),
        (call(GET, f"{DOCUMENTS}/a.pdf"), call(PUT, f"{ARTEFACTS}/datasets/train.json"), call(DELETE, MODEL), call(PUT, f"{ARTEFACTS}/elsewhere")),
    ),
    "mlflow": (
        (call(GET, f"{ARTEFACTS}/mlflow/1/m"), call(PUT, f"{ARTEFACTS}/mlflow/1/m"), call(DELETE, f"{ARTEFACTS}/mlflow/1/m")),
        (call(PUT, MODEL), call(GET, MODEL), call(GET, f"{DOCUMENTS}/a.pdf"), call("rds:DeleteDBInstance", f"arn:aws:rds:{REGION}:{ACCOUNT}:db:{NAME}")),
    ),
    "secrets": (
        (call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/edge-key-a-x"), call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/pinecone-x")),
        (
            call("secretsmanager:GetSecretValue", f"{SECRET}:quarry-production/edge-key-a-x"),
            call("secretsmanager:GetSecretValue", f"{SECRET}:rds!db-another-Ab1xYz"),
            call("secretsmanager:PutSecretValue", f"{SECRET}:{NAME}/edge-key-a-x"),
            call("secretsmanager:ListSecrets"),
            call(GET, f"{DOCUMENTS}/a.pdf"),
        ),
    ),
    "balancer": (
        (call("elasticloadbalancing:DescribeTargetHealth"), call("ec2:DescribeSubnets")),
        (
            call("elasticloadbalancing:RegisterTargets", f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/other/1"),
            call("elasticloadbalancing:CreateLoadBalancer"),
            call("ec2:AuthorizeSecurityGroupIngress"),
        ),
    ),
    "autoscaler": (
        (
            call(
                "autoscaling:SetDesiredCapacity",
                f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:1:autoScalingGroupName/eks-general-1",
                aws_ResourceTag_eks_cluster_name=NAME,
            ),
        ),
        (
            call(
                "autoscaling:SetDesiredCapacity",
                f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:1:autoScalingGroupName/eks-general-1",
                aws_ResourceTag_eks_cluster_name="other",
            ),
            call("ec2:RunInstances"),
        ),
    ),
    "github-images": (
        (call("ecr:GetAuthorizationToken"), call("ecr:PutImage", f"{REPOSITORY}/{NAME}/reader")),
        (
            call("ecr:PutImage", f"{REPOSITORY}/quarry-production/reader"),
            call("ecr:BatchDeleteImage", f"{REPOSITORY}/{NAME}/reader"),
            call("eks:DescribeCluster", CLUSTER),
        ),
    ),
    "github-deploy": (
        (call("eks:DescribeCluster", CLUSTER), call("ecr:DescribeImages", f"{REPOSITORY}/{NAME}/reader")),
        (
            call("eks:DescribeCluster", CLUSTER.replace(NAME, "quarry-production")),
            call("eks:CreateAccessEntry", CLUSTER),
            call("ecr:PutImage", f"{REPOSITORY}/{NAME}/reader"),
            call(GET, MODEL),
        ),
    ),
    "github-gate": (
        (call(GET, f"{ARTEFACTS}/releases/3f0c/release.json"), call(GET, f"{ARTEFACTS}/releases/models/reader/3/model.onnx"), *SERVING[0]),
        (*SERVING[1], call("eks:DescribeCluster", CLUSTER), call(GET, f"{BACKUPS}/latest")),
    ),
    "github-pipelines": (
        (call("eks:DescribeCluster", CLUSTER),),
        (
            call("eks:DescribeCluster", CLUSTER.replace(NAME, "quarry-production")),
            call("eks:AssociateAccessPolicy", CLUSTER),
            call(GET, MODEL),
            call("ecr:PutImage", f"{REPOSITORY}/{NAME}/reader"),
        ),
    ),
    "github-nightly": (
        (
            call(GET, f"{BACKUPS}/2026-11-25T02-00-00Z/index/3f0c/index.db"),
            call(LIST, BACKUPS, s3_prefix="2026-11-25T02-00-00Z/"),
            call(GET, f"{ARTEFACTS}/releases/models/reader/3/model.onnx"),
            call(LIST, ARTEFACTS, s3_prefix="releases/models/"),
            call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/canary-key-Ab1xYz"),
        ),
        (
            call(PUT, f"{BACKUPS}/2026-11-25T02-00-00Z/ledger.db"),
            call(DELETE, f"{BACKUPS}/2026-11-25T02-00-00Z/ledger.db"),
            call("s3:GetObjectVersion", f"{BACKUPS}/2026-11-25T02-00-00Z/ledger.db"),
            call(LIST, BACKUPS),
            call(GET, f"{DOCUMENTS}/a.pdf"),
            call(GET, f"{ARTEFACTS}/mlflow/1/model"),
            call(PUT, MODEL),
            call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/edge-key-a-Ab1xYz"),
            call("secretsmanager:GetSecretValue", f"{SECRET}:{NAME}/canary-key-of-another-Ab1xYz"),
            call("eks:DescribeCluster", CLUSTER),
        ),
    ),
    "github-plan": (
        (
            call(GET, f"arn:aws:s3:::{NAME}-{ACCOUNT}-state/staging.tfstate"),
            call(PUT, f"arn:aws:s3:::{NAME}-{ACCOUNT}-state/staging.tfstate.tflock"),
            call("secretsmanager:GetRandomPassword"),
        ),
        (
            call(PUT, f"arn:aws:s3:::{NAME}-{ACCOUNT}-state/staging.tfstate"),
            call(GET, f"{DOCUMENTS}/a.pdf"),
            call("secretsmanager:GetSecretValue", f"{SECRET}:rds!db-another-Ab1xYz"),
        ),
    ),
    "github-apply": (
        (
            call("iam:CreateRole", f"{ROLE}/{NAME}-reader"),
            call("iam:PassRole", f"{ROLE}/{NAME}-node", iam_PassedToService="eks.amazonaws.com"),
        ),
        (
            call("iam:PutRolePolicy", f"{ROLE}/{NAME}-github-apply"),
            call("iam:UpdateAssumeRolePolicy", f"{ROLE}/{NAME}-github-deploy"),
            call("iam:CreateRole", f"{ROLE}/quarry-production-reader"),
            call("iam:PassRole", f"{ROLE}/{NAME}-node", iam_PassedToService="lambda.amazonaws.com"),
        ),
    ),
}


GITHUB_ENVIRONMENTS = {
    "plan": "staging-plan",
    "apply": "staging",
    "deploy": "staging",
    "images": "staging-images",
    "gate": "staging-gate",
    "pipelines": "staging-pipelines",
    "nightly": "staging-nightly",
}


@pytest.fixture(scope="module")
def own(applied: Applied) -> dict[str, list[Document]]:
    """The policies written in terraform/, by role; AWS's managed ones are not in it."""
    values = [r["values"] for r in applied.state if r["type"] == "aws_iam_role_policy"]
    iam = applied.client("iam")
    held = {v["role"]: iam.get_role_policy(RoleName=v["role"], PolicyName=v["name"])["PolicyDocument"] for v in values}
    return {role.removeprefix(f"{NAME}-"): [document] for role, document in held.items()}


def test_every_role_has_its_lists(own: dict[str, Any]) -> None:
    assert set(own) == {*MUST, "flowlogs"}


def wrong(role: str, policies: list[Document]) -> list[str]:
    """The calls that should go through and do not, and the other way round."""
    missing = [f"must: {action} {resource}" for action, resource, given in MUST[role][0] if not allowed(policies, action, resource, **given)]
    return missing + [f"must not: {action} {resource}" for action, resource, given in MUST[role][1] + NEVER if allowed(policies, action, resource, **given)]


@pytest.mark.parametrize("role", MUST)
def test_role(own: dict[str, list[Document]], role: str) -> None:
    assert wrong(role, own[role]) == []


def test_keys_are_used_through_the_services_alone(own: dict[str, list[Document]], applied: Applied) -> None:
    (key,) = [r["values"]["arn"] for r in applied.state if r["type"] == "aws_kms_key"]
    assert allowed(own["reader"], "kms:Decrypt", key, kms_ViaService=f"s3.{REGION}.amazonaws.com")
    assert not allowed(own["reader"], "kms:Decrypt", key)
    assert not allowed(own["reader"], "kms:GenerateDataKey", key, kms_ViaService=f"s3.{REGION}.amazonaws.com")
    assert allowed(own["training"], "kms:GenerateDataKey", key, kms_ViaService=f"s3.{REGION}.amazonaws.com")
    assert not allowed(own["secrets"], "kms:Decrypt", key, kms_ViaService=f"s3.{REGION}.amazonaws.com")
    for job, services in {"gate": {"s3"}, "nightly": {"s3", "secretsmanager"}, "pipelines": set()}.items():
        used = {s for s in ("s3", "secretsmanager") if allowed(own[f"github-{job}"], "kms:Decrypt", key, kms_ViaService=f"{s}.{REGION}.amazonaws.com")}
        assert used == services, job


def test_the_databases_secret_is_read_by_external_secrets_alone(own: dict[str, list[Document]], applied: Applied) -> None:
    """RDS names it, so it is in no list above; its key is the environment's."""
    (database,) = applied.client("rds").describe_db_instances()["DBInstances"]
    held, key = database["MasterUserSecret"]["SecretArn"], database["MasterUserSecret"]["KmsKeyId"]
    assert {role for role in own if allowed(own[role], "secretsmanager:GetSecretValue", held)} == {"secrets"}
    assert allowed(own["secrets"], "secretsmanager:DescribeSecret", held)
    assert allowed(own["secrets"], "kms:Decrypt", key, kms_ViaService=f"secretsmanager.{REGION}.amazonaws.com")
    for action in ("PutSecretValue", "RotateSecret", "UpdateSecret", "DeleteSecret"):
        assert not allowed(own["secrets"], f"secretsmanager:{action}", held)


def test_terraforms_plan_reads_the_secrets_that_terraform_writes(own: dict[str, list[Document]], applied: Applied) -> None:
    """AWS ends a secret's ARN as it likes, so these are in no list above either."""
    written = [r["values"]["arn"] for r in applied.state if r["type"] == "aws_secretsmanager_secret"]
    assert len(written) == 3
    for secret in written:
        assert allowed(own["github-plan"], "secretsmanager:GetSecretValue", secret)
        assert not allowed(own["github-plan"], "secretsmanager:PutSecretValue", secret)
        assert {role for role in own if allowed(own[role], "secretsmanager:GetSecretValue", secret)} == {"github-plan", "secrets"}


def test_pods_are_registered_at_the_edge_alone(own: dict[str, list[Document]], applied: Applied) -> None:
    (group,) = [r["values"]["arn"] for r in applied.state if r["type"] == "aws_lb_target_group"]
    assert allowed(own["balancer"], "elasticloadbalancing:RegisterTargets", group)
    assert not allowed(own["balancer"], "elasticloadbalancing:DeleteTargetGroup", group)


def test_who_may_take_a_role(applied: Applied) -> None:
    """Pods of this cluster, jobs of this repository in this environment, and runs of Jenkins' one job; nobody else."""
    roles = [r["values"] for r in applied.state if r["type"] == "aws_iam_role"]
    trusts = {v["name"].removeprefix(f"{NAME}-"): documents([v["assume_role_policy"]]) for v in roles}
    for workload in (name for name in MUST if not name.startswith("github-")):
        assert allowed(trusts[workload], "sts:AssumeRole", aws_SourceAccount=ACCOUNT, aws_SourceArn=CLUSTER)
        assert not allowed(trusts[workload], "sts:AssumeRole", aws_SourceAccount=ACCOUNT, aws_SourceArn=CLUSTER.replace("staging", "dev"))
        assert [s["Principal"] for s in statements(trusts[workload])] == [{"Service": "pods.eks.amazonaws.com"}]
    issuer = "token_actions_githubusercontent_com"
    given = {f"{issuer}_aud": "sts.amazonaws.com"}
    for job, environment in GITHUB_ENVIRONMENTS.items():
        theirs = [f"your-organisation/quarry:environment:{other}" for other in GITHUB_ENVIRONMENTS.values() if other != environment]
        for other in ("somebody/quarry:environment:staging", "your-organisation/quarry:ref:refs/heads/main", "your-organisation/quarry:pull_request", *theirs):
            assert not _taken(trusts, job, **given, **{f"{issuer}_sub": f"repo:{other}"})
        assert _taken(trusts, job, **given, **{f"{issuer}_sub": f"repo:your-organisation/quarry:environment:{environment}"})
    jenkins = {"jenkins_example_com_oidc_aud": "sts.amazonaws.com", "jenkins_example_com_oidc_sub": JENKINS["job"]}
    assert {job for job in GITHUB_ENVIRONMENTS if _taken(trusts, job, **jenkins)} == {"apply", "deploy", "gate", "images"}
    branch = {**jenkins, "jenkins_example_com_oidc_sub": JENKINS["job"].replace("main", "other")}
    assert not any(_taken(trusts, job, **branch) for job in GITHUB_ENVIRONMENTS)


def _taken(trusts: dict[str, list[Document]], job: str, **claims: str) -> bool:
    return allowed(trusts[f"github-{job}"], "sts:AssumeRoleWithWebIdentity", **claims)
