variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "vpc_id" {
  description = "The network."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in at least two zones."
  type        = list(string)
}

variable "client_security_group_id" {
  description = "Who may connect: the cluster's security group."
  type        = string
}

variable "instance_class" {
  description = "Size, such as db.t4g.medium."
  type        = string
}

variable "multi_az" {
  description = "Whether a standby in another zone takes over."
  type        = bool
}

variable "backup_days" {
  description = "For how many days one can go back to any second, 1 to 35."
  type        = number
  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days must be from 1 to 35."
  }
}

variable "protected" {
  description = "Whether deletion is refused."
  type        = bool
}

variable "final_snapshot" {
  description = "Whether deletion leaves a snapshot."
  type        = bool
}

variable "log_group_arn" {
  description = "Where PostgreSQL logs; it has to be there first."
  type        = string
}

variable "key_arn" {
  description = "The KMS key data, backups and the password are encrypted with."
  type        = string
}
