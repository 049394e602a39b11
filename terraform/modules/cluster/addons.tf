# What nodes need before pods run.
resource "aws_eks_addon" "network" {
  for_each             = toset(["vpc-cni", "kube-proxy", "eks-pod-identity-agent"])
  cluster_name         = aws_eks_cluster.this.name
  addon_name           = each.key
  configuration_values = each.key == "vpc-cni" ? jsonencode({ enableNetworkPolicy = "true" }) : null

  dynamic "pod_identity_association" {
    for_each = each.key == "vpc-cni" ? ["aws-node"] : []
    content {
      service_account = pod_identity_association.value
      role_arn        = aws_iam_role.addon["vpc-cni"].arn
    }
  }
}

# What runs on nodes.
resource "aws_eks_addon" "pods" {
  for_each     = toset(["coredns", "aws-ebs-csi-driver"])
  cluster_name = aws_eks_cluster.this.name
  addon_name   = each.key

  dynamic "pod_identity_association" {
    for_each = each.key == "aws-ebs-csi-driver" ? ["ebs-csi-controller-sa"] : []
    content {
      service_account = pod_identity_association.value
      role_arn        = aws_iam_role.addon["aws-ebs-csi-driver"].arn
    }
  }

  depends_on = [aws_eks_node_group.this]
}

data "aws_iam_policy_document" "assume_pod" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "addon" {
  for_each           = toset(["vpc-cni", "aws-ebs-csi-driver"])
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume_pod.json
}

resource "aws_iam_role_policy_attachment" "addon" {
  for_each = {
    vpc-cni            = "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy"
    aws-ebs-csi-driver = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
  }
  role       = aws_iam_role.addon[each.key].name
  policy_arn = each.value
}
