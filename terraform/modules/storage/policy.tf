# By name and not by the bucket: a change of a bucket, as of its protection, would have Terraform plan its policy anew.
locals {
  arns = { for bucket in keys(var.buckets) : bucket => "arn:aws:s3:::${var.prefix}-${bucket}" }
}

data "aws_iam_policy_document" "this" {
  for_each = var.buckets

  # S3 itself brings the access logs, each bucket's under its name.
  dynamic "statement" {
    for_each = each.key == "logs" ? setsubtract(keys(var.buckets), ["logs"]) : []
    content {
      sid       = "AccessLogsOf${title(statement.value)}"
      actions   = ["s3:PutObject"]
      resources = ["${local.arns[each.key]}/s3/${statement.value}/*"]
      principals {
        type        = "Service"
        identifiers = ["logging.s3.amazonaws.com"]
      }
      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = [local.arns[statement.value]]
      }
    }
  }

  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.arns[each.key], "${local.arns[each.key]}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each   = var.buckets
  bucket     = aws_s3_bucket.this[each.key].id
  policy     = data.aws_iam_policy_document.this[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.this]
}
