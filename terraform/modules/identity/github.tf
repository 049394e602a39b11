# GitHub Actions gets a role for an hour by its own signed token: no key of AWS is kept anywhere.

resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  # Role -> the GitHub environment whose jobs may take it. Who may start a job there, and who has to approve it, is set in GitHub.
  github = {
    plan   = "${var.environment}-plan"
    apply  = var.environment
    images = var.environment
    deploy = var.environment
  }
}

data "aws_iam_policy_document" "assume_github" {
  for_each = local.github
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.github.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = ["repo:${var.repository}:environment:${each.value}"]
    }
  }
}

resource "aws_iam_role" "github" {
  for_each             = local.github
  name                 = "${var.name}-github-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.assume_github[each.key].json
  max_session_duration = 3600
}

data "aws_iam_policy_document" "images" {
  # AWS takes no narrower resource for this.
  statement {
    sid       = "Login"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    sid = "Push"
    actions = [
      "ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage",
      "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:DescribeImages", "ecr:DescribeImageScanFindings",
    ]
    resources = var.repository_arns
  }
}

data "aws_iam_policy_document" "deploy" {
  statement {
    sid       = "FindTheCluster"
    actions   = ["eks:DescribeCluster"]
    resources = [var.cluster_arn]
  }
  statement {
    sid       = "ImagesExist"
    actions   = ["ecr:DescribeImages", "ecr:BatchGetImage"]
    resources = var.repository_arns
  }
}

resource "aws_iam_role_policy" "github" {
  for_each = {
    plan   = data.aws_iam_policy_document.plan.json
    apply  = data.aws_iam_policy_document.apply.json
    images = data.aws_iam_policy_document.images.json
    deploy = data.aws_iam_policy_document.deploy.json
  }
  name   = each.key
  role   = aws_iam_role.github[each.key].id
  policy = each.value
}
