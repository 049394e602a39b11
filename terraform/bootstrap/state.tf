# Where an environment's Terraform state lies. Applied once by an administrator, before the environment; its own state stays in this folder.

module "key" {
  source = "../modules/key"
  name   = "${local.name}-state"
}

# State holds secrets (the key the edge sends): who may read this bucket may read them.
module "storage" {
  source        = "../modules/storage"
  prefix        = "${local.name}-${data.aws_caller_identity.this.account_id}"
  key_arn       = module.key.arn
  force_destroy = false
  buckets       = { state = { keep_replaced_days = 90 } }
}

locals {
  name = "quarry-${var.environment}"
}

data "aws_caller_identity" "this" {}
