"""What is changed in each environment that is applied, and what that may touch."""

STAGE, KEY_B = "module.edge.aws_api_gateway_stage.this", "module.edge.aws_secretsmanager_secret_version.b"
CLIENTS = "{first={rate=2,burst=4,requests_per_day=10000},second={rate=1,burst=1,requests_per_day=10}}"
KEYS, PLANS, PLAN_KEYS = (f'module.edge.aws_api_gateway_{kind}.this["second"]' for kind in ("api_key", "usage_plan", "usage_plan_key"))
Touched = dict[str, str]
# Environment -> what one variable is set to -> what that touches, and how. All are composed alike (test_sources.py): each is tried in one.
# Those of one environment are planned together: what each touches is touched by no other.
VARIABLES: dict[str, dict[str, Touched]] = {
    "dev": {
        f"clients={CLIENTS}": {KEYS: "create", PLANS: "create", PLAN_KEYS: "create"},
        'jenkins={issuer="https://ci.example.com/oidc",job="https://ci.example.com/job/quarry/job/main/"}': {
            "module.identity.aws_iam_openid_connect_provider.jenkins[0]": "replace",
            **{f'module.identity.aws_iam_role.github["{role}"]': "update" for role in ("apply", "deploy", "gate", "images")},
            'module.identity.aws_iam_role_policy.github["apply"]': "update",
        },
        'api_cidrs=["198.51.100.0/24"]': {"module.cluster.aws_eks_cluster.this": "update"},
    },
    "staging": {
        "edge_key=b": {STAGE: "update"},
        "edge_key_versions={a=1,b=2}": {KEY_B: "replace"},
    },
    "production": {},
}
# In the one that is protected this is applied, as docs/aws.md tells before `terraform destroy`.
PROTECTED = "production"
OPENED = ("protected = true", "protected = false")
OPENS: Touched = {
    "module.database.aws_db_instance.this": "update",
    "module.edge.aws_lb.this": "update",
    **{f'module.storage.aws_s3_bucket.this["{kind}"]': "update" for kind in ("artefacts", "backups", "documents", "logs")},
    **{f'module.registry.aws_ecr_repository.this["{image}"]': "update" for image in ("airflow", "gateway", "ingestion", "reader", "retriever", "training")},
}
