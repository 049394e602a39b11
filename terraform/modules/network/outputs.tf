output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "The private subnets, by zone in order."
  value       = [for zone in sort(local.zones) : aws_subnet.private[zone].id]
}
