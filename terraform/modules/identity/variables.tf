variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "environment" {
  description = "dev, staging or production: the GitHub environment whose jobs may deploy."
  type        = string
}

variable "repository" {
  description = "The GitHub repository whose jobs may deploy, as owner/name."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository must be owner/name, without wildcards."
  }
}

variable "bucket_arns" {
  description = "Buckets: artefacts, documents, logs."
  type        = map(string)
}

variable "key_arn" {
  description = "The environment's KMS key."
  type        = string
}

variable "state_bucket_arn" {
  description = "Where Terraform's state lies."
  type        = string
}

variable "state_key_arn" {
  description = "The KMS key of Terraform's state."
  type        = string
}

variable "repository_arns" {
  description = "The image repositories."
  type        = list(string)
}

variable "cluster_arn" {
  description = "The cluster whose pods may take the workloads' roles."
  type        = string
}

variable "target_group_arn" {
  description = "Where the gateway's pods are registered."
  type        = string
}

variable "secret_arns" {
  description = "The secrets that External Secrets may read."
  type        = list(string)
}

variable "edge_secret_arns" {
  description = "The secrets with the edge's keys, which Terraform reads."
  type        = list(string)
}
