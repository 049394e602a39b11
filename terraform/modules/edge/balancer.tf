# Between API Gateway's VPC link, which needs a network load balancer, and the gateway's pods.

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_91:network load balancers log TLS connections only, and this has none
  #checkov:skip=CKV2_AWS_20:it passes TCP on and speaks no HTTP
  name                             = var.name
  internal                         = true
  load_balancer_type               = "network"
  subnets                          = var.subnet_ids
  security_groups                  = [aws_security_group.balancer.id]
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = var.protected

  # The VPC link comes by PrivateLink; the group below lets nobody else in.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
}

# Targets are the pods' addresses, put here by a TargetGroupBinding of the chart.
resource "aws_lb_target_group" "this" {
  name                 = var.name
  vpc_id               = var.vpc_id
  target_type          = "ip"
  protocol             = "TCP"
  port                 = local.port
  preserve_client_ip   = false
  deregistration_delay = 30

  health_check {
    protocol            = "HTTP"
    path                = "/readyz"
    interval            = 10
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "this" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "TCP"
  port              = 80

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

locals {
  port = 8080
}

# No rule lets anything in: not from the internet, and not from the network either.
resource "aws_security_group" "balancer" {
  name        = "${var.name}-balancer"
  description = "The edge's balancer: reached by API Gateway's VPC link alone"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "To the gateway's pods"
  referenced_security_group_id = var.cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}

resource "aws_vpc_security_group_ingress_rule" "gateway" {
  security_group_id            = var.cluster_security_group_id
  description                  = "The gateway's port, from the edge's balancer"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}
