variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "keep_logs_days" {
  description = "For how many days logs are kept; one of the numbers CloudWatch knows."
  type        = number
}

variable "alarm_email" {
  description = "Who is told of alarms and of the budget."
  type        = string
  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+$", var.alarm_email))
    error_message = "alarm_email must be a mail address."
  }
}

variable "budget_usd" {
  description = "US dollars a month; told at 80 % spent and at 100 % forecast."
  type        = number
}

variable "key_arn" {
  description = "The KMS key logs and alarms are encrypted with."
  type        = string
}
