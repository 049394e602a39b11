# What makes this environment what it is.

locals {
  environment = "dev"
  name        = "quarry-${local.environment}"

  cidr  = "10.20.0.0/16"
  zones = 2
  nat   = "single"

  kubernetes_version = "1.34"
  node_groups = {
    general = { instance_types = ["m7i-flex.large"], min = 2, max = 4, spot = true }
    serving = { instance_types = ["c7i.xlarge", "c6i.xlarge"], min = 1, max = 3, spot = true }
  }

  database = { instance_class = "db.t4g.small", multi_az = false, backup_days = 1, final_snapshot = false }

  # The edge. A new revision of its API: docs/aws.md, "When the API changes".
  revisions = { live = "9e6e2292" }
  throttle = {
    "default"                             = { rate = 10, burst = 20 }
    "POST /v1/answers"                    = { rate = 5, burst = 10 }
    "POST /v1/search"                     = { rate = 10, burst = 20 }
    "PUT /v1/documents/{document_id+}"    = { rate = 2, burst = 4 }
    "DELETE /v1/documents/{document_id+}" = { rate = 2, burst = 4 }
  }
  requests_per_address = 1000 # in 5 minutes

  keep_logs_days    = 14
  keep_backups_days = 3
  keep_images       = 20
  budget_usd        = 700

  # Whether database, balancer, buckets and images refuse to be deleted.
  protected = false

  # Secrets that people put in by hand, such as Pinecone's key: quarry-dev/NAME.
  secrets = "arn:aws:secretsmanager:${var.region}:${var.account_id}:secret:${local.name}"
}
