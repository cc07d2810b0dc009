# For the scaler's token: it looks at jobs, and changes how many allocations they have.
#
#     nomad acl policy apply votemill-scaler nomad/policies/scaler.hcl
#     nomad acl token create -name=votemill-scaler -policy=votemill-scaler
namespace "default" {
  capabilities = ["read-job", "scale-job"]
}
