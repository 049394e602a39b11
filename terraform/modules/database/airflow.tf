# What Airflow's chart is given: a user of its own, which quarry_training.airflow_database makes in the instance, and the keys it signs and encrypts with.

resource "aws_secretsmanager_secret" "airflow" {
  #checkov:skip=CKV2_AWS_57:its password and keys are changed together with what reads them (k8s/README.md), which a timer cannot do
  name        = "${var.name}/airflow"
  description = "Airflow's database and keys"
  kms_key_id  = var.key_arn
  # Of no use without the database.
  recovery_window_in_days = 0
}

ephemeral "aws_secretsmanager_random_password" "airflow" {
  for_each            = { password = 48, fernet_key = 32, api_secret_key = 48, jwt_secret = 48 }
  password_length     = each.value
  exclude_punctuation = true
}

# Written once and kept out of the state; -replace writes new ones.
resource "aws_secretsmanager_secret_version" "airflow" {
  secret_id = aws_secretsmanager_secret.airflow.id
  secret_string_wo = jsonencode(merge(
    { for name, made in ephemeral.aws_secretsmanager_random_password.airflow : name => made.random_password },
    {
      username   = "airflow"
      host       = aws_db_instance.this.address
      fernet_key = base64encode(ephemeral.aws_secretsmanager_random_password.airflow["fernet_key"].random_password) # of 32 bytes; letters and digits give neither + nor /
    },
  ))
  secret_string_wo_version = 1
}
