# Terraform's own two roles. `plan` reads how things are set up, never what they hold; `apply` is behind the environment's approval.

locals {
  roles     = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:role/${var.name}-*"
  own       = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:role/${var.name}-github-*"
  providers = concat([aws_iam_openid_connect_provider.github.arn], aws_iam_openid_connect_provider.jenkins[*].arn)
}

resource "aws_iam_role_policy_attachment" "terraform" {
  for_each = {
    plan-view  = { role = "plan", policy = "arn:aws:iam::aws:policy/job-function/ViewOnlyAccess" }
    plan-audit = { role = "plan", policy = "arn:aws:iam::aws:policy/SecurityAudit" }
    apply      = { role = "apply", policy = "arn:aws:iam::aws:policy/PowerUserAccess" }
  }
  role       = aws_iam_role.github[each.value.role].name
  policy_arn = each.value.policy
}

data "aws_iam_policy_document" "plan" {
  statement {
    sid       = "ReadState"
    actions   = ["s3:GetObject"]
    resources = ["${var.state_bucket_arn}/${var.environment}.tfstate"]
  }
  statement {
    sid       = "LockState"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${var.state_bucket_arn}/${var.environment}.tfstate.tflock"]
  }
  statement {
    sid       = "FindState"
    actions   = ["s3:ListBucket"]
    resources = [var.state_bucket_arn]
  }
  statement {
    sid       = "ReadSecretsMadeHere"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = var.made_secret_arns
  }
  # A plan makes the passwords that it would write, and forgets them. AWS takes no narrower resource.
  statement {
    sid       = "MakePasswords"
    actions   = ["secretsmanager:GetRandomPassword"]
    resources = ["*"]
  }
  statement {
    sid       = "StateAndSecretsAreEncrypted"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.key_arn, var.state_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = [for service in ["s3", "secretsmanager"] : "${service}.${data.aws_region.this.name}.amazonaws.com"]
    }
  }
}

# Beside PowerUserAccess, which has nothing of IAM: roles of this environment's name, except those that GitHub takes.
data "aws_iam_policy_document" "apply" {
  statement {
    sid = "OurRoles"
    actions = [
      "iam:CreateRole", "iam:DeleteRole", "iam:GetRole", "iam:TagRole", "iam:UntagRole", "iam:UpdateRole", "iam:UpdateAssumeRolePolicy",
      "iam:ListRolePolicies", "iam:GetRolePolicy", "iam:PutRolePolicy", "iam:DeleteRolePolicy",
      "iam:ListAttachedRolePolicies", "iam:AttachRolePolicy", "iam:DetachRolePolicy", "iam:ListInstanceProfilesForRole",
    ]
    resources = [local.roles]
  }
  statement {
    sid    = "NotItself"
    effect = "Deny"
    actions = [
      "iam:CreateRole", "iam:DeleteRole", "iam:UpdateRole", "iam:UpdateAssumeRolePolicy",
      "iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:AttachRolePolicy", "iam:DetachRolePolicy",
    ]
    resources = [local.own]
  }
  statement {
    sid       = "HandOurRolesToServices"
    actions   = ["iam:PassRole"]
    resources = [local.roles]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["eks.amazonaws.com", "ec2.amazonaws.com", "pods.eks.amazonaws.com", "vpc-flow-logs.amazonaws.com", "apigateway.amazonaws.com"]
    }
  }
  statement {
    sid       = "LookAtIssuers"
    actions   = ["iam:GetOpenIDConnectProvider"]
    resources = local.providers
  }
}
