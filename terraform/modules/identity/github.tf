# GitHub Actions gets a role for an hour by its own signed token: no key of AWS is kept anywhere.

resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  # Role -> the GitHub environment whose jobs may take it. Who may start a job there, and who has to approve it, is set in GitHub.
  # tests/delivery compares it with what the workflows and the Jenkinsfile name.
  github = {
    plan      = "${var.environment}-plan"
    apply     = var.environment
    deploy    = var.environment
    images    = "${var.environment}-images"
    gate      = "${var.environment}-gate"
    pipelines = "${var.environment}-pipelines"
    nightly   = "${var.environment}-nightly"
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
  dynamic "statement" {
    for_each = contains(local.jenkins_roles, each.key) ? [local.jenkins] : []
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [statement.value.provider]
      }
      condition {
        test     = "StringEquals"
        variable = "${statement.value.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
      condition {
        test     = "StringEquals"
        variable = "${statement.value.issuer}:sub"
        values   = [statement.value.job]
      }
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

# What it may do inside the cluster is said by the cluster's access entry and by k8s/base/access.yaml.
data "aws_iam_policy_document" "pipelines" {
  statement {
    sid       = "FindTheCluster"
    actions   = ["eks:DescribeCluster"]
    resources = [var.cluster_arn]
  }
}

# The restore drill reads last night's backup and the models it needs; the recall canaries' API key is one secret.
data "aws_iam_policy_document" "nightly" {
  source_policy_documents = [data.aws_iam_policy_document.serving.json, data.aws_iam_policy_document.list["backups"].json]
  statement {
    sid       = "ReadBackups"
    actions   = ["s3:GetObject"]
    resources = ["${local.backups}/*"]
  }
  statement {
    sid       = "ReadTheCanariesKey"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.canary_secret_arn]
  }
  statement {
    sid       = "TheKeyIsEncrypted"
    actions   = ["kms:Decrypt"]
    resources = [var.key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${data.aws_region.this.name}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "github" {
  for_each = {
    plan      = data.aws_iam_policy_document.plan.json
    apply     = data.aws_iam_policy_document.apply.json
    deploy    = data.aws_iam_policy_document.deploy.json
    images    = data.aws_iam_policy_document.images.json
    gate      = data.aws_iam_policy_document.serving.json # both releases' manifests and models
    pipelines = data.aws_iam_policy_document.pipelines.json
    nightly   = data.aws_iam_policy_document.nightly.json
  }
  name   = each.key
  role   = aws_iam_role.github[each.key].id
  policy = each.value
}
