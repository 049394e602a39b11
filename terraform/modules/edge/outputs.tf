output "url" {
  description = "Where clients ask."
  value       = var.domain == null ? aws_api_gateway_stage.this.invoke_url : "https://${var.domain.name}"
}

output "target_group_arn" {
  description = "Where the gateway's pods are registered."
  value       = aws_lb_target_group.this.arn
}

output "secret_arns" {
  description = "The secrets with the two keys, by letter."
  value       = { for letter, secret in aws_secretsmanager_secret.key : letter => secret.arn }
}

output "secret_names" {
  description = "Their names, by letter."
  value       = { for letter, secret in aws_secretsmanager_secret.key : letter => secret.name }
}

output "api_key_ids" {
  description = "API key by client; its value: aws apigateway get-api-key --include-value --api-key ID."
  value       = { for client, key in aws_api_gateway_api_key.this : client => key.id }
}

output "revision" {
  description = "The revision of the generated API."
  value       = local.revision
}
