# The same in every environment (a test compares); what differs is in settings.tf.

module "key" {
  source = "../../modules/key"
  name   = local.name
}

module "observability" {
  source         = "../../modules/observability"
  name           = local.name
  keep_logs_days = local.keep_logs_days
  alarm_email    = var.alarm_email
  budget_usd     = local.budget_usd
  key_arn        = module.key.arn
}

module "network" {
  source        = "../../modules/network"
  name          = local.name
  cidr          = local.cidr
  zones         = local.zones
  nat           = local.nat
  log_group_arn = module.observability.log_group_arns["network"]
}

module "storage" {
  source        = "../../modules/storage"
  prefix        = "${local.name}-${data.aws_caller_identity.this.account_id}"
  key_arn       = module.key.arn
  force_destroy = !local.protected
  buckets = {
    documents = {}
    artefacts = {}
    backups   = { keep_days = local.keep_backups_days }
    logs      = { keep_days = local.keep_logs_days }
  }
}

module "registry" {
  source        = "../../modules/registry"
  name          = local.name
  images        = ["gateway", "retriever", "reader", "ingestion", "training", "airflow"]
  keep          = local.keep_images
  key_arn       = module.key.arn
  force_destroy = !local.protected
}

module "cluster" {
  source             = "../../modules/cluster"
  name               = local.name
  kubernetes_version = local.kubernetes_version
  subnet_ids         = module.network.private_subnet_ids
  api_cidrs          = var.api_cidrs
  node_groups        = local.node_groups
  pod_roles          = module.identity.pod_roles
  log_group_arn      = module.observability.log_group_arns["cluster"]
  key_arn            = module.key.arn

  # What the groups may do: k8s/base/access.yaml.
  access = merge(
    { for arn in var.administrators : arn => { principal_arn = arn, policy = "AmazonEKSClusterAdminPolicy" } },
    {
      deploy    = { principal_arn = module.identity.github_role_arns["deploy"], policy = "AmazonEKSAdminPolicy", namespaces = ["quarry"], groups = ["quarry-deploy"] }
      pipelines = { principal_arn = module.identity.github_role_arns["pipelines"], groups = ["quarry-pipelines"] }
    },
  )
}

module "database" {
  source                   = "../../modules/database"
  name                     = local.name
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.private_subnet_ids
  client_security_group_id = module.cluster.security_group_id
  instance_class           = local.database.instance_class
  multi_az                 = local.database.multi_az
  backup_days              = local.database.backup_days
  final_snapshot           = local.database.final_snapshot
  protected                = local.protected
  log_group_arn            = module.observability.log_group_arns["database"]
  key_arn                  = module.key.arn
}

module "edge" {
  source                    = "../../modules/edge"
  name                      = local.name
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.private_subnet_ids
  cluster_security_group_id = module.cluster.security_group_id
  auth                      = length(var.cognito_pool_arns) > 0 ? "cognito" : "api_key"
  cognito_pool_arns         = var.cognito_pool_arns
  clients                   = var.clients
  throttle                  = local.throttle
  requests_per_address      = local.requests_per_address
  revisions                 = local.revisions
  edge_key                  = var.edge_key
  edge_key_versions         = var.edge_key_versions
  domain                    = var.domain
  log_group_arns            = module.observability.log_group_arns
  protected                 = local.protected
  key_arn                   = module.key.arn
}

module "identity" {
  source            = "../../modules/identity"
  name              = local.name
  environment       = local.environment
  repository        = var.repository
  jenkins           = var.jenkins
  bucket_arns       = module.storage.arns
  key_arn           = module.key.arn
  state_bucket_arn  = "arn:aws:s3:::${local.name}-${data.aws_caller_identity.this.account_id}-state"
  state_key_arn     = var.state_key_arn
  repository_arns   = module.registry.arns
  cluster_arn       = module.cluster.arn
  target_group_arn  = module.edge.target_group_arn
  secret_arns       = [module.database.secret_arn, "${local.secrets}/*"]
  made_secret_arns  = concat(values(module.edge.secret_arns), [module.database.airflow_secret_arn])
  canary_secret_arn = "${local.secrets}/canary-key-??????"
}
