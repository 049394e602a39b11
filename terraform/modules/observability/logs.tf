# Made here and not by the services that write: so they are encrypted and end.
resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:who asked and when is not kept for a year; each environment says how long
  for_each = {
    edge     = "/quarry/${var.name}/edge"
    waf      = "aws-waf-logs-${var.name}" # WAF takes no other name
    network  = "/quarry/${var.name}/network"
    cluster  = "/aws/eks/${var.name}/cluster"
    database = "/aws/rds/instance/${var.name}/postgresql"
  }
  name              = each.value
  retention_in_days = var.keep_logs_days
  kms_key_id        = var.key_arn
}
