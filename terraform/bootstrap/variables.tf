variable "account_id" {
  description = "The AWS account of the environment."
  type        = string
}

variable "region" {
  description = "The AWS region."
  type        = string
}

variable "environment" {
  description = "dev, staging or production."
  type        = string
  validation {
    condition     = contains(["dev", "staging", "production"], var.environment)
    error_message = "environment must be dev, staging or production."
  }
}
