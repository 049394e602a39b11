output "identifier" {
  description = "The instance, for alarms."
  value       = aws_db_instance.this.identifier
}

output "endpoint" {
  description = "Host and port, for MLflow's backend store."
  value       = aws_db_instance.this.endpoint
}

output "secret_arn" {
  description = "The Secrets Manager secret with user name and password, which RDS rotates."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}
