variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "kubernetes_version" {
  description = "Kubernetes, such as 1.34."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets for nodes and pods."
  type        = list(string)
}

variable "api_cidrs" {
  description = "From where the Kubernetes API may be reached over the internet; empty: from inside the network only."
  type        = list(string)
  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrnetmask(cidr)) && cidr != "0.0.0.0/0"])
    error_message = "api_cidrs must be IPv4 networks, and not the whole world."
  }
}

variable "node_groups" {
  description = "Node group by name. `general` takes any pod; the others only those that tolerate the taint quarry/nodes=NAME."
  type = map(object({
    instance_types = list(string)
    min            = number
    max            = number
    disk_gb        = optional(number, 50)
    spot           = optional(bool, false)
    gpu            = optional(bool, false)
  }))
  validation {
    condition     = contains(keys(var.node_groups), "general")
    error_message = "node_groups needs a group named general: DNS and the add-ons run there."
  }
}

variable "pod_roles" {
  description = "AWS role of a workload: for pods of this service account in this namespace."
  type        = map(object({ namespace = string, service_account = string, role_arn = string }))
}

variable "access" {
  description = "Who may use the cluster: an IAM principal; one of EKS's access policies, if any, and the namespaces it holds for (none: all); Kubernetes groups."
  type = map(object({
    principal_arn = string
    policy        = optional(string)
    namespaces    = optional(list(string), [])
    groups        = optional(list(string), [])
  }))
}

variable "log_group_arn" {
  description = "Where the control plane logs; it has to be there first."
  type        = string
}

variable "key_arn" {
  description = "The KMS key Kubernetes Secrets are encrypted with."
  type        = string
}
