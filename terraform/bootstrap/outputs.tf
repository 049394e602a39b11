output "backend" {
  description = "What to write into the environment's backend.hcl."
  value       = <<-EOT
    bucket     = "${module.storage.names["state"]}"
    key        = "${var.environment}.tfstate"
    region     = "${var.region}"
    kms_key_id = "${module.key.arn}"
  EOT
}

output "state_key_arn" {
  description = "For the environment's terraform.tfvars."
  value       = module.key.arn
}
