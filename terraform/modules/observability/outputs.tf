output "log_group_arns" {
  description = "ARN by what writes there: edge, waf, network, cluster, database."
  value       = { for name, group in aws_cloudwatch_log_group.this : name => group.arn }
}

output "topic_arn" {
  description = "Where alarms are published."
  value       = aws_sns_topic.alarms.arn
}
