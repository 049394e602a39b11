# The REST API. api.json is generated from the gateway's own OpenAPI document by `make edge`; only who may call is said here.

locals {
  generated = jsondecode(file("${path.module}/api.json"))
  revision  = substr(sha256("${var.auth} ${file("${path.module}/api.json")}"), 0, 8)

  # With an API key the gateway may still ask for a token; Cognito's are checked at the edge and again by the gateway.
  schemes = {
    api_key = { type = "apiKey", name = "x-api-key", in = "header" }
    cognito = {
      type                             = "apiKey"
      name                             = "Authorization"
      in                               = "header"
      "x-amazon-apigateway-authtype"   = "cognito_user_pools"
      "x-amazon-apigateway-authorizer" = { type = "cognito_user_pools", providerARNs = var.cognito_pool_arns }
    }
  }
  schemes_json = { for name, scheme in local.schemes : name => jsonencode(scheme) }
  components   = merge(local.generated.components, { securitySchemes = { edge = jsondecode(local.schemes_json[var.auth]) } })

  routes = merge([
    for path, methods in local.generated.paths : {
      for method, operation in methods : "${upper(method)} ${path}" => { path = path, method = upper(method) }
    }
  ]...)
}

resource "aws_api_gateway_rest_api" "this" {
  name                         = var.name
  description                  = "Quarry: answers from documents"
  body                         = jsonencode(merge(local.generated, { components = local.components }))
  put_rest_api_mode            = "overwrite"
  disable_execute_api_endpoint = var.domain != null

  endpoint_configuration {
    types = ["REGIONAL"]
  }

  lifecycle {
    create_before_destroy = true
  }
}

# Private integration: API Gateway reaches the balancer by PrivateLink, and nothing else does.
resource "aws_api_gateway_vpc_link" "this" {
  name        = var.name
  target_arns = [aws_lb.this.arn]
}
