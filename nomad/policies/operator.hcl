# For people: they look, scale, restart, run the image's commands and rotate secrets, but deploy nothing.
#
#     nomad acl policy apply votemill-operator nomad/policies/operator.hcl
#     nomad acl token create -name=SOMEBODY -policy=votemill-operator
namespace "default" {
  capabilities = [
    "list-jobs", "read-job", "read-logs", "read-job-scaling", "scale-job", "alloc-lifecycle", "alloc-exec",
  ]

  variables {
    path "nomad/jobs/votemill-*" {
      capabilities = ["list", "read", "write"]
    }
  }
}

node {
  policy = "read"
}
