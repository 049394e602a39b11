# A revision is one generated api.json. It is made by being named in var.revisions, tried as the canary on a share of requests, then made live.

resource "aws_api_gateway_deployment" "this" {
  for_each    = toset(compact([var.revisions.live, var.revisions.canary]))
  rest_api_id = aws_api_gateway_rest_api.this.id
  description = "Revision ${each.key}"

  lifecycle {
    create_before_destroy = true
    precondition {
      condition     = contains([var.revisions.live, var.revisions.canary], local.revision)
      error_message = "api.json or auth has changed: its revision is ${local.revision}. Set it as revisions.canary (with percent) or revisions.live."
    }
  }
}

resource "aws_api_gateway_stage" "this" {
  #checkov:skip=CKV_AWS_73:the gateway logs each hop of a request; nothing reads X-Ray
  #checkov:skip=CKV_AWS_120:a reply depends on who asks, so none is kept
  #checkov:skip=CKV2_AWS_51:docs/adr/0008 says why a header and not a certificate
  #checkov:skip=CKV2_AWS_77:AWSManagedRulesKnownBadInputsRuleSet is in the dynamic rule of the firewall
  rest_api_id   = aws_api_gateway_rest_api.this.id
  deployment_id = aws_api_gateway_deployment.this[var.revisions.live].id
  stage_name    = "live"

  # The header value that tells the gateway that a request came by here (docs/adr/0008).
  variables = {
    gateway  = aws_lb.this.dns_name
    vpc_link = aws_api_gateway_vpc_link.this.id
    edge_key = local.sent
  }

  dynamic "canary_settings" {
    for_each = var.revisions.canary == null ? [] : [var.revisions]
    content {
      deployment_id   = aws_api_gateway_deployment.this[canary_settings.value.canary].id
      percent_traffic = canary_settings.value.percent
    }
  }

  # Who, what, how long and how it went; never what was asked or answered.
  access_log_settings {
    destination_arn = var.log_group_arns["edge"]
    format = jsonencode({
      time            = "$context.requestTimeEpoch"
      request_id      = "$context.requestId"
      method          = "$context.httpMethod"
      route           = "$context.resourcePath"
      status          = "$context.status"
      client          = "$context.identity.apiKeyId"
      address         = "$context.identity.sourceIp"
      milliseconds    = "$context.responseLatency"
      gateway_status  = "$context.integration.status"
      gateway_ms      = "$context.integration.latency"
      bytes           = "$context.responseLength"
      refused_because = "$context.error.responseType"
      waf             = "$context.wafResponseCode"
      canary          = "$context.isCanaryRequest"
    })
  }

  depends_on = [aws_api_gateway_account.this]
}

resource "aws_api_gateway_method_settings" "route" {
  #checkov:skip=CKV_AWS_225:a reply depends on who asks, so none is kept
  for_each    = local.routes
  rest_api_id = aws_api_gateway_rest_api.this.id
  stage_name  = aws_api_gateway_stage.this.stage_name
  method_path = "${replace(each.value.path, "/", "~1")}/${each.value.method}"

  settings {
    throttling_rate_limit  = lookup(var.throttle, each.key, var.throttle["default"]).rate
    throttling_burst_limit = lookup(var.throttle, each.key, var.throttle["default"]).burst
    metrics_enabled        = true
    logging_level          = "ERROR"
    data_trace_enabled     = false # it would log questions, answers and the edge's key
  }
}

# API Gateway writes its logs with this role: one for the account and region.
data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["apigateway.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "logs" {
  name               = "${var.name}-edge-logs"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy_attachment" "logs" {
  role       = aws_iam_role.logs.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
}

resource "aws_api_gateway_account" "this" {
  cloudwatch_role_arn = aws_iam_role.logs.arn
  depends_on          = [aws_iam_role_policy_attachment.logs]
}
