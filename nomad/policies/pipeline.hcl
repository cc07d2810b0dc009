# The one token that may deploy: only the pipeline holds it (secret NOMAD_TOKEN of the environments staging and production).
#
#     nomad acl policy apply votemill-pipeline nomad/policies/pipeline.hcl
#     nomad acl token create -name=votemill-pipeline -policy=votemill-pipeline
namespace "default" {
  capabilities = ["read-job", "submit-job", "dispatch-job"]
}
