variable "account_id" {
  description = "The AWS account of this environment: one each, so that a mistake in one cannot reach another."
  type        = string
}

variable "region" {
  description = "The AWS region."
  type        = string
}

variable "repository" {
  description = "The GitHub repository that deploys, as owner/name."
  type        = string
}

variable "jenkins" {
  description = "A Jenkins that delivers besides GitHub: its tokens' issuer, and the URL of the job whose runs may deploy; null: none."
  type        = object({ issuer = string, job = string })
  default     = null
}

variable "alarm_email" {
  description = "Who is told of alarms and of the budget."
  type        = string
}

variable "state_key_arn" {
  description = "The KMS key of Terraform's state, which bootstrap prints."
  type        = string
}

variable "administrators" {
  description = "IAM roles or users that administer the cluster."
  type        = list(string)
  default     = []
}

variable "api_cidrs" {
  description = "From where the Kubernetes API may be reached over the internet; empty: from inside the network only."
  type        = list(string)
  default     = []
}

variable "clients" {
  description = "Client by name: requests a second, at once, and a day."
  type        = map(object({ rate = number, burst = number, requests_per_day = number }))
}

variable "cognito_pool_arns" {
  description = "Cognito user pools whose tokens are taken at the edge instead of API keys."
  type        = list(string)
  default     = []
}

variable "domain" {
  description = "A name of one's own, its certificate in ACM (same region), and its Route 53 zone; null: API Gateway's address."
  type        = object({ name = string, certificate_arn = string, zone_id = string })
  default     = null
}

variable "edge_key" {
  description = "Which of the edge's two keys is sent: a or b."
  type        = string
  default     = "a"
}

variable "edge_key_versions" {
  description = "A higher number makes a new key. Change only the one that is not sent."
  type        = object({ a = number, b = number })
  default     = { a = 1, b = 1 }
}
