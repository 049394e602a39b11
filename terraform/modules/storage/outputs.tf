output "arns" {
  description = "ARN by bucket."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.arn }
}

output "names" {
  description = "Full name by bucket."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.id }
}
