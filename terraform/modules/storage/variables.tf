variable "prefix" {
  description = "Prefix of the buckets' names; they are unique among all of AWS."
  type        = string
}

variable "key_arn" {
  description = "The KMS key objects are encrypted with."
  type        = string
}

variable "buckets" {
  description = "Bucket by name: for how many days objects are kept (null: always), and what was replaced or deleted. A bucket `logs` gets the others' access logs."
  type = map(object({
    keep_days          = optional(number)
    keep_replaced_days = optional(number, 30)
  }))
}

variable "force_destroy" {
  description = "Whether destroy takes buckets that are not empty."
  type        = bool
}
