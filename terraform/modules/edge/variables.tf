variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets for the balancer."
  type        = list(string)
}

variable "cluster_security_group_id" {
  description = "The security group of the gateway's pods."
  type        = string
}

variable "auth" {
  description = "Who may call: api_key (the gateway may ask for a token of any OIDC issuer besides) or cognito (tokens of the pools below)."
  type        = string
  validation {
    condition     = contains(["api_key", "cognito"], var.auth)
    error_message = "auth must be api_key or cognito."
  }
}

variable "cognito_pool_arns" {
  description = "For cognito: whose tokens are taken."
  type        = list(string)
  validation {
    condition     = (var.auth == "cognito") == (length(var.cognito_pool_arns) > 0)
    error_message = "cognito_pool_arns must name a user pool with auth = cognito, and none without."
  }
}

variable "clients" {
  description = "Client by name: requests a second, at once, and a day."
  type        = map(object({ rate = number, burst = number, requests_per_day = number }))
}

variable "throttle" {
  description = "Requests a second and at once over all clients, by route (such as \"POST /v1/answers\"); `default` is for the others."
  type        = map(object({ rate = number, burst = number }))
  validation {
    condition     = contains(keys(var.throttle), "default")
    error_message = "throttle needs an entry named default."
  }
}

variable "requests_per_address" {
  description = "Requests in 5 minutes from one address before WAF blocks it, at least 10."
  type        = number
}

variable "revisions" {
  description = "The revision of api.json that is live; one to try beside it, and on how many percent of requests."
  type        = object({ live = string, canary = optional(string), percent = optional(number, 0) })
  validation {
    condition     = var.revisions.percent >= 0 && var.revisions.percent <= 100 && var.revisions.canary != var.revisions.live
    error_message = "revisions: percent must be from 0 to 100, and the canary another revision than the live one."
  }
}

variable "edge_key" {
  description = "Which of the two keys API Gateway sends: a or b."
  type        = string
  validation {
    condition     = contains(["a", "b"], var.edge_key)
    error_message = "edge_key must be a or b."
  }
}

variable "edge_key_versions" {
  description = "A higher number makes a new key. Change only the one that is not sent."
  type        = object({ a = number, b = number })
}

variable "domain" {
  description = "A name of one's own, its certificate in ACM (same region), and its Route 53 zone; null: API Gateway's address."
  type        = object({ name = string, certificate_arn = string, zone_id = string })
  nullable    = true
}

variable "log_group_arns" {
  description = "Where the edge and WAF log."
  type        = map(string)
}

variable "protected" {
  description = "Whether the balancer refuses to be deleted."
  type        = bool
}

variable "key_arn" {
  description = "The KMS key the edge's keys are encrypted with."
  type        = string
}
