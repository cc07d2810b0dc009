# The schema, moved once per deployment before nodes and workers are: nomad job dispatch votemill-migrate. Never as a
# prestart task, which would run in every allocation. Secrets: the Nomad variable nomad/jobs/votemill-migrate.
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }

job "votemill-migrate" {
  datacenters = var.datacenters
  type        = "batch"

  parameterized {
    payload       = "forbidden"
    meta_required = ["direction"]
  }

  group "migrate" {
    # A migration that fails leaves nothing behind and wants to be looked at, not repeated.
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "migrate" {
      driver = "docker"
      # It ends by itself, or rolls back when the connection goes.
      kill_timeout = "45s"

      config {
        image           = var.image
        args            = ["migrate", "${NOMAD_META_direction}"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        VOTEMILL_ENV               = var.environment
        VOTEMILL_DATABASE__CA_FILE = "${NOMAD_SECRETS_DIR}/ca.pem"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/votemill.env"
        env         = true
        # A rotated password must not end a migration in its middle.
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-migrate" }}
VOTEMILL_DATABASE__URL={{ .database_url | toJSON }}
{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-migrate" }}{{ .ca }}{{ end }}
EOT
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
