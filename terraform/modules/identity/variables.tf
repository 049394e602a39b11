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

variable "jenkins" {
  description = "A Jenkins that delivers besides: its tokens' issuer, and the URL of the job whose runs on main may deploy; null: none."
  type        = object({ issuer = string, job = string })
  validation {
    condition     = var.jenkins == null || can([regex("^https://[^*?]+[^*?/]$", var.jenkins.issuer), regex("^https://[^*?]+/$", var.jenkins.job)])
    error_message = "jenkins.issuer and jenkins.job must be https addresses without wildcards; the job's ends in /."
  }
}

variable "bucket_arns" {
  description = "Buckets: artefacts, backups, documents."
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

variable "canary_secret_arn" {
  description = "The secret with the API key by which the nightly recall canaries ask."
  type        = string
}

variable "made_secret_arns" {
  description = "The secrets that Terraform writes and reads: the edge's keys, and Airflow's."
  type        = list(string)
}
