output "identifier" {
  description = "The instance, for alarms."
  value       = aws_db_instance.this.identifier
}

output "host" {
  description = "Where MLflow's backend store is."
  value       = aws_db_instance.this.address
}

output "port" {
  description = "The port it listens at."
  value       = aws_db_instance.this.port
}

output "secret_arn" {
  description = "The Secrets Manager secret with user name and password, which RDS rotates."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "airflow_secret_arn" {
  description = "The Secrets Manager secret with Airflow's user, password and keys."
  value       = aws_secretsmanager_secret.airflow.arn
}
