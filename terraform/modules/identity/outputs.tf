output "pod_roles" {
  description = "Namespace, service account and role ARN by workload."
  value = {
    for name, workload in local.workloads : name => {
      namespace       = workload.namespace
      service_account = workload.service_account
      role_arn        = aws_iam_role.workload[name].arn
    }
  }
}

output "github_role_arns" {
  description = "Role ARN by what a GitHub job does: plan, apply, deploy, images, gate, pipelines, nightly."
  value       = { for name, role in aws_iam_role.github : name => role.arn }
}
