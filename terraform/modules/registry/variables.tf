variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}

variable "images" {
  description = "The images that are built."
  type        = set(string)
}

variable "keep" {
  description = "How many of each image are kept."
  type        = number
}

variable "key_arn" {
  description = "The KMS key images are encrypted with."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroy takes repositories that are not empty."
  type        = bool
}
