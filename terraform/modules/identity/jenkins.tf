# Jenkins, where there is one, takes the same roles by tokens of its own (plugin oidc-provider): those of one job, which runs the Jenkinsfile on main.

resource "aws_iam_openid_connect_provider" "jenkins" {
  count          = var.jenkins == null ? 0 : 1
  url            = var.jenkins.issuer
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  # What the Jenkinsfile takes: tests/delivery compares.
  jenkins_roles = var.jenkins == null ? [] : ["apply", "deploy", "gate", "images"]
  jenkins = {
    provider = one(aws_iam_openid_connect_provider.jenkins[*].arn)
    issuer   = try(trimprefix(var.jenkins.issuer, "https://"), "")
    job      = try(var.jenkins.job, "")
  }
}
