resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = var.key_arn
}

resource "aws_sns_topic_subscription" "mail" {
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  edge = { ApiName = var.name, Stage = "live" }
  data = { DBInstanceIdentifier = var.name }
  # Thresholds: 1 % of requests failing, and a 95th percentile a second under the gateway's own default deadline of 8 s.
  alarms = {
    edge-errors   = { space = "AWS/ApiGateway", metric = "5XXError", of = local.edge, statistic = "Average", above = true, at = 0.01 }
    edge-slow     = { space = "AWS/ApiGateway", metric = "Latency", of = local.edge, percentile = "p95", above = true, at = 7000 }
    database-cpu  = { space = "AWS/RDS", metric = "CPUUtilization", of = local.data, statistic = "Average", above = true, at = 80 }
    database-disk = { space = "AWS/RDS", metric = "FreeStorageSpace", of = local.data, statistic = "Minimum", above = false, at = 4 * 1024 * 1024 * 1024 }
    database-memory = {
      space = "AWS/RDS", metric = "FreeableMemory", of = local.data, statistic = "Minimum", above = false, at = 128 * 1024 * 1024
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  namespace           = each.value.space
  metric_name         = each.value.metric
  dimensions          = each.value.of
  statistic           = lookup(each.value, "statistic", null)
  extended_statistic  = lookup(each.value, "percentile", null)
  comparison_operator = each.value.above ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.at
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

resource "aws_budgets_budget" "this" {
  name         = var.name
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.budget_usd)
  limit_unit   = "USD"

  cost_filter {
    name   = "TagKeyValue"
    values = [format("user:Environment$%s", var.name)]
  }

  dynamic "notification" {
    for_each = { ACTUAL = 80, FORECASTED = 100 }
    content {
      notification_type          = notification.key
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = [var.alarm_email]
    }
  }
}
