# The two keys by which the gateway knows the edge. One is sent, both are taken, so that each can be changed while the other is in use.

resource "aws_secretsmanager_secret" "key" {
  #checkov:skip=CKV2_AWS_57:changed in three steps while in use, docs/adr/0008, which a timer cannot do
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

# Two resources and not one for each letter: a change of one would have Terraform read the other anew, and touch the stage for nothing.
resource "aws_secretsmanager_secret_version" "a" {
  secret_id                = aws_secretsmanager_secret.key["a"].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.key["a"].random_password
  secret_string_wo_version = var.edge_key_versions.a
}

resource "aws_secretsmanager_secret_version" "b" {
  secret_id                = aws_secretsmanager_secret.key["b"].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.key["b"].random_password
  secret_string_wo_version = var.edge_key_versions.b
}

# Only the key that is sent is read, and so in the state.
data "aws_secretsmanager_secret_version" "a" {
  count      = var.edge_key == "a" ? 1 : 0
  secret_id  = aws_secretsmanager_secret.key["a"].id
  version_id = aws_secretsmanager_secret_version.a.version_id
}

data "aws_secretsmanager_secret_version" "b" {
  count      = var.edge_key == "b" ? 1 : 0
  secret_id  = aws_secretsmanager_secret.key["b"].id
  version_id = aws_secretsmanager_secret_version.b.version_id
}

locals {
  sent = one(concat(data.aws_secretsmanager_secret_version.a[*].secret_string, data.aws_secretsmanager_secret_version.b[*].secret_string))
}
