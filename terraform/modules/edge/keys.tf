# The two keys by which the gateway knows the edge. One is sent, both are taken, so that each can be changed while the other is in use.

resource "aws_secretsmanager_secret" "key" {
  for_each    = var.edge_key_versions
  name        = "${var.name}/edge-key-${each.key}"
  description = "Sent by API Gateway in X-Quarry-Edge, checked by the gateway"
  kms_key_id  = var.key_arn
  # A key is of no use without the API: nothing is kept for later.
  recovery_window_in_days = 0
}

ephemeral "aws_secretsmanager_random_password" "key" {
  for_each            = var.edge_key_versions
  password_length     = 48
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret_version" "key" {
  for_each                 = var.edge_key_versions
  secret_id                = aws_secretsmanager_secret.key[each.key].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.key[each.key].random_password
  secret_string_wo_version = each.value
}

data "aws_secretsmanager_secret_version" "sent" {
  secret_id  = aws_secretsmanager_secret.key[var.edge_key].id
  version_id = aws_secretsmanager_secret_version.key[var.edge_key].version_id
}
