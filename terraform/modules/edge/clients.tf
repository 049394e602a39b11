# Who asks: a key, a rate and a quota for each client. With Cognito the keys are not asked for, and these limits do not hold.

resource "aws_api_gateway_api_key" "this" {
  for_each = var.clients
  name     = "${var.name}-${each.key}"
}

resource "aws_api_gateway_usage_plan" "this" {
  for_each = var.clients
  name     = "${var.name}-${each.key}"

  api_stages {
    api_id = aws_api_gateway_rest_api.this.id
    stage  = aws_api_gateway_stage.this.stage_name
  }

  throttle_settings {
    rate_limit  = each.value.rate
    burst_limit = each.value.burst
  }

  quota_settings {
    limit  = each.value.requests_per_day
    period = "DAY"
  }
}

resource "aws_api_gateway_usage_plan_key" "this" {
  for_each      = var.clients
  key_id        = aws_api_gateway_api_key.this[each.key].id
  key_type      = "API_KEY"
  usage_plan_id = aws_api_gateway_usage_plan.this[each.key].id
}
