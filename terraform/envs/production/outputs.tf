output "url" {
  description = "Where clients ask."
  value       = module.edge.url
}

output "revision" {
  description = "The revision of the edge's API."
  value       = module.edge.revision
}

output "buckets" {
  description = "Bucket by what it holds."
  value       = module.storage.names
}

output "images" {
  description = "Where each image is pushed to."
  value       = module.registry.urls
}

output "github_roles" {
  description = "For GitHub's environment variables: role ARN by what a job does."
  value       = module.identity.github_role_arns
}

output "target_group" {
  description = "Where the gateway's pods are registered."
  value       = module.edge.target_group_arn
}

output "platform" {
  description = "For k8s/overlays/ENVIRONMENT/account.env: what MLflow and Airflow have to know of this account. RDS keeps user name and password in the secret, and changes them."
  value       = <<-EOT
    artifacts=s3://${module.storage.names["artefacts"]}/mlflow
    database_host=${module.database.host}
    database_port=${module.database.port}
    database_secret=${module.database.secret_arn}
    AWS_DEFAULT_REGION=${var.region}
    QUARRY_AIRFLOW_SOURCE=s3://${module.storage.names["documents"]}/
    QUARRY_RELEASES=s3://${module.storage.names["artefacts"]}/releases
  EOT
}

output "chart" {
  description = "For helm/quarry/values-ENVIRONMENT-account.yaml: what the chart has to know of this account."
  value = yamlencode(merge(
    { for image in ["reader", "retriever"] : image => { image = { repository = module.registry.urls[image] } } },
    {
      artefacts = { prefix = "s3://${module.storage.names["artefacts"]}/releases", environment = { AWS_DEFAULT_REGION = var.region } }
      gateway = {
        image = { repository = module.registry.urls["gateway"] }
        edge  = { externalSecrets = values(module.edge.secret_names), targetGroup = module.edge.target_group_arn }
      }
      ingestion = {
        image  = { repository = module.registry.urls["ingestion"] }
        source = "s3://${module.storage.names["documents"]}/"
        backup = { prefix = "s3://${module.storage.names["backups"]}" }
      }
    },
  ))
}

output "next" {
  description = "What to type now."
  value = {
    kubectl = "aws eks update-kubeconfig --region ${var.region} --name ${module.cluster.name}"
    api_keys = {
      for client, id in module.edge.api_key_ids :
      client => "aws apigateway get-api-key --region ${var.region} --include-value --query value --output text --api-key ${id}"
    }
    ask = "curl -s ${module.edge.url}/v1/answers -H \"x-api-key: $KEY\" -H 'Content-Type: application/json' -d '{\"question\": \"At what wind speed does work on the scaffold stop?\"}'"
  }
}
