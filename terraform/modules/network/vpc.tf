data "aws_availability_zones" "this" {
  #checkov:skip=CKV_AWS_394:the first ones by name are taken, and subnets are keyed by zone
  state = "available"

  # Not the local zones that an account may have opted into.
  filter {
    name   = "zone-type"
    values = ["availability-zone"]
  }
}

data "aws_region" "this" {}

locals {
  zones  = toset(slice(sort(data.aws_availability_zones.this.names), 0, var.zones))
  order  = { for index, zone in sort(local.zones) : zone => index }
  public = var.nat == "none" ? toset([]) : local.zones
  nat    = { none = toset([]), single = toset(slice(sort(local.zones), 0, 1)), per_zone = local.zones }[var.nat]
  region = data.aws_region.this.name
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

# What AWS makes by itself lets everything out and its own members in: nothing may use it.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
}

# Pods have addresses of their own: a /19 is 8,187 of them in a zone.
resource "aws_subnet" "private" {
  for_each          = local.zones
  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.cidr, 3, local.order[each.key])
  tags              = { Name = "${var.name}-private-${each.key}", "kubernetes.io/role/internal-elb" = "1" }
}

resource "aws_route_table" "private" {
  for_each = local.zones
  vpc_id   = aws_vpc.this.id
  tags     = { Name = "${var.name}-private-${each.key}" }
}

resource "aws_route_table_association" "private" {
  for_each       = local.zones
  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}
