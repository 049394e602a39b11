# Policies of the workloads that read and write objects. The artefact bucket: releases/ (what is served), mlflow/ (runs and models), datasets/.

data "aws_iam_policy_document" "decrypt" {
  statement {
    sid       = "ObjectsAreEncrypted"
    actions   = ["kms:Decrypt"]
    resources = [var.key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${data.aws_region.this.name}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "encrypt" {
  source_policy_documents = [data.aws_iam_policy_document.decrypt.json]
  statement {
    sid       = "ObjectsGetEncrypted"
    actions   = ["kms:GenerateDataKey"]
    resources = [var.key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${data.aws_region.this.name}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "list" {
  for_each = {
    releases = { bucket = local.artefacts, prefixes = ["releases/*"] }
    training = { bucket = local.artefacts, prefixes = ["releases/*", "mlflow/*", "datasets/*"] }
    mlflow   = { bucket = local.artefacts, prefixes = ["mlflow/*"] }
    backups  = { bucket = local.backups, prefixes = ["*"] }
  }
  statement {
    sid       = "List${title(each.key)}"
    actions   = ["s3:ListBucket"]
    resources = [each.value.bucket]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = each.value.prefixes
    }
  }
}

# The init container fetches the release's models.
data "aws_iam_policy_document" "serving" {
  source_policy_documents = [data.aws_iam_policy_document.decrypt.json, data.aws_iam_policy_document.list["releases"].json]
  statement {
    sid       = "FetchReleases"
    actions   = ["s3:GetObject"]
    resources = ["${local.artefacts}/releases/*"]
  }
}

data "aws_iam_policy_document" "ingestion" {
  source_policy_documents = [data.aws_iam_policy_document.serving.json]
  statement {
    sid       = "ReadDocuments"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = ["${local.documents}/*"]
  }
  statement {
    sid       = "ListDocuments"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [local.documents]
  }
  statement {
    sid       = "WriteBackups"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.backups}/*"]
  }
  statement {
    sid       = "BackupsGetEncrypted"
    actions   = ["kms:GenerateDataKey"]
    resources = [var.key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${data.aws_region.this.name}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "training" {
  source_policy_documents = [data.aws_iam_policy_document.encrypt.json, data.aws_iam_policy_document.list["training"].json]
  statement {
    sid       = "ReadDatasets"
    actions   = ["s3:GetObject"]
    resources = ["${local.artefacts}/datasets/*"]
  }
  statement {
    sid       = "WriteModelsAndReleases"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${local.artefacts}/mlflow/*", "${local.artefacts}/releases/*"]
  }
}

data "aws_iam_policy_document" "mlflow" {
  source_policy_documents = [data.aws_iam_policy_document.encrypt.json, data.aws_iam_policy_document.list["mlflow"].json]
  statement {
    sid       = "Artefacts"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${local.artefacts}/mlflow/*"]
  }
}
