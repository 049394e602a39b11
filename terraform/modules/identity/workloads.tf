# What each workload may do in AWS, and nothing else. The gateway is not here: it needs nothing of AWS.

data "aws_region" "this" {}
data "aws_caller_identity" "this" {}

locals {
  artefacts = var.bucket_arns["artefacts"]
  backups   = var.bucket_arns["backups"]
  documents = var.bucket_arns["documents"]

  # Namespace and service account as the chart and k8s/ name them.
  workloads = {
    reader     = { namespace = "quarry", service_account = "quarry-reader", policy = data.aws_iam_policy_document.serving.json }
    retriever  = { namespace = "quarry", service_account = "quarry-retriever", policy = data.aws_iam_policy_document.serving.json }
    ingestion  = { namespace = "quarry", service_account = "quarry-ingestion", policy = data.aws_iam_policy_document.ingestion.json }
    training   = { namespace = "kubeflow", service_account = "pipeline-runner", policy = data.aws_iam_policy_document.training.json }
    mlflow     = { namespace = "mlflow", service_account = "mlflow", policy = data.aws_iam_policy_document.mlflow.json }
    secrets    = { namespace = "external-secrets", service_account = "external-secrets", policy = data.aws_iam_policy_document.secrets.json }
    balancer   = { namespace = "kube-system", service_account = "aws-load-balancer-controller", policy = data.aws_iam_policy_document.balancer.json }
    autoscaler = { namespace = "kube-system", service_account = "cluster-autoscaler", policy = data.aws_iam_policy_document.autoscaler.json }
  }
}

data "aws_iam_policy_document" "assume_pod" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.this.account_id]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [var.cluster_arn]
    }
  }
}

resource "aws_iam_role" "workload" {
  for_each           = local.workloads
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume_pod.json
}

resource "aws_iam_role_policy" "workload" {
  for_each = local.workloads
  name     = "workload"
  role     = aws_iam_role.workload[each.key].id
  policy   = each.value.policy
}
