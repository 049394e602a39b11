variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "cidr" {
  description = "The network's addresses: a /16."
  type        = string
  validation {
    condition     = can(cidrnetmask(var.cidr)) && endswith(var.cidr, "/16")
    error_message = "cidr must be an IPv4 /16, such as 10.20.0.0/16."
  }
}

variable "zones" {
  description = "In how many availability zones, 2 to 6."
  type        = number
  validation {
    condition     = var.zones >= 2 && var.zones <= 6
    error_message = "zones must be from 2 to 6: EKS and RDS need two."
  }
}

variable "nat" {
  description = "The way to the internet: none, single (one for all zones: cheaper, and down with its zone) or per_zone."
  type        = string
  validation {
    condition     = contains(["none", "single", "per_zone"], var.nat)
    error_message = "nat must be none, single or per_zone."
  }
}

variable "log_group_arn" {
  description = "Where refused connections are written."
  type        = string
}
