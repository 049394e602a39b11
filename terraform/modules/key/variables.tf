variable "name" {
  description = "Prefix of all names of the environment."
  type        = string
}
