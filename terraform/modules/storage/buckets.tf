resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:aws_s3_bucket_logging.this is for every bucket but the one that takes the logs
  #checkov:skip=CKV_AWS_144:versions guard against mistakes; the loss of a region is not provided for
  #checkov:skip=CKV_AWS_145:S3 delivers access logs to no bucket with a KMS key; the others have one
  #checkov:skip=CKV2_AWS_62:ingestion lists the bucket, and nothing listens for events
  for_each      = var.buckets
  bucket        = "${var.prefix}-${each.key}"
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = var.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

# S3 delivers access logs only to buckets with its own keys (SSE-S3), not with KMS.
resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = var.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  rule {
    bucket_key_enabled = each.key != "logs"
    apply_server_side_encryption_by_default {
      sse_algorithm     = each.key == "logs" ? "AES256" : "aws:kms"
      kms_master_key_id = each.key == "logs" ? null : var.key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = var.buckets
  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = var.buckets
  bucket   = aws_s3_bucket.this[each.key].id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = var.buckets
  bucket   = aws_s3_bucket.this[each.key].id

  rule {
    id     = "what-was-replaced"
    status = "Enabled"
    filter {
      prefix = ""
    }
    noncurrent_version_expiration {
      noncurrent_days = each.value.keep_replaced_days
    }
    expiration {
      expired_object_delete_marker = each.value.keep_days == null ? true : null
      days                         = each.value.keep_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_logging" "this" {
  for_each      = { for name, bucket in var.buckets : name => bucket if name != "logs" && contains(keys(var.buckets), "logs") }
  bucket        = aws_s3_bucket.this[each.key].id
  target_bucket = aws_s3_bucket.this["logs"].id
  target_prefix = "s3/${each.key}/"
  depends_on    = [aws_s3_bucket_policy.this]
}
