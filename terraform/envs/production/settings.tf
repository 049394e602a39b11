# What makes this environment what it is.

locals {
  environment = "production"
  name        = "quarry-${local.environment}"

  cidr  = "10.22.0.0/16"
  zones = 3
  nat   = "per_zone"

  kubernetes_version = "1.34"
  node_groups = {
    general  = { instance_types = ["m7i.large"], min = 3, max = 6 }
    serving  = { instance_types = ["c7i.2xlarge"], min = 3, max = 12 }
    training = { instance_types = ["g6.xlarge"], min = 0, max = 2, disk_gb = 200, gpu = true }
  }

  database = { instance_class = "db.m7g.large", multi_az = true, backup_days = 30, final_snapshot = true }

  # The edge. A new revision of its API: docs/aws.md, "When the API changes".
  revisions = { live = "9e6e2292" }
  throttle = {
    "default"                             = { rate = 50, burst = 100 }
    "POST /v1/answers"                    = { rate = 50, burst = 100 }
    "POST /v1/search"                     = { rate = 100, burst = 200 }
    "PUT /v1/documents/{document_id+}"    = { rate = 10, burst = 20 }
    "DELETE /v1/documents/{document_id+}" = { rate = 10, burst = 20 }
  }
  requests_per_address = 5000 # in 5 minutes

  keep_logs_days    = 90
  keep_backups_days = 30
  keep_images       = 100
  budget_usd        = 3000

  # Whether database, balancer, buckets and images refuse to be deleted.
  protected = true

  # Secrets that people put in by hand, such as Pinecone's key: quarry-production/NAME.
  secrets = "arn:aws:secretsmanager:${var.region}:${var.account_id}:secret:${local.name}"
}
