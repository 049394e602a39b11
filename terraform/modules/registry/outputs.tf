output "arns" {
  description = "The repositories."
  value       = [for repository in aws_ecr_repository.this : repository.arn]
}

output "urls" {
  description = "Where each image is pushed to."
  value       = { for image, repository in aws_ecr_repository.this : image => repository.repository_url }
}
