# What makes this environment what it is.

locals {
  environment = "staging"
  name        = "quarry-${local.environment}"

  cidr  = "10.21.0.0/16"
  zones = 2
  nat   = "single"

  kubernetes_version = "1.34"
  node_groups = {
    general = { instance_types = ["m7i-flex.large"], min = 2, max = 4 }
    serving = { instance_types = ["c7i.xlarge"], min = 2, max = 4 }
  }

  database = { instance_class = "db.t4g.medium", multi_az = false, backup_days = 7, final_snapshot = false }

  # The edge. A new revision of its API: docs/aws.md, "When the API changes".
  revisions = { live = "9e6e2292" }
  throttle = {
    "default"                             = { rate = 20, burst = 40 }
    "POST /v1/answers"                    = { rate = 20, burst = 40 }
    "POST /v1/search"                     = { rate = 40, burst = 80 }
    "PUT /v1/documents/{document_id+}"    = { rate = 5, burst = 10 }
    "DELETE /v1/documents/{document_id+}" = { rate = 5, burst = 10 }
  }
  requests_per_address = 2000 # in 5 minutes

  keep_logs_days    = 30
  keep_backups_days = 14
  keep_images       = 30
  budget_usd        = 1000

  # Whether database, balancer, buckets and images refuse to be deleted.
  protected = false

  # Secrets that people put in by hand, such as Pinecone's key: quarry-staging/NAME.
  secrets = "arn:aws:secretsmanager:${var.region}:${var.account_id}:secret:${local.name}"
}
