# The scaler: sets the counts of the nodes' and workers' groups. One is enough, since nothing breaks while none runs; of
# two only one does anything. Secrets: the Nomad variable nomad/jobs/votemill-scaler (nomad/README.md lists its keys).
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }
variable "statsd_host" { type = string }
variable "nomad_url" { type = string }
variable "node_count_max" { type = number }
variable "votes_worker_count_max" { type = number }
variable "host_worker_count_max" { type = number }

job "votemill-scaler" {
  datacenters = var.datacenters
  type        = "service"

  update {
    max_parallel      = 1
    auto_revert       = true
    health_check      = "task_states"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "scaler" {
    count = 1

    restart {
      attempts = 3
      interval = "2m"
      delay    = "5s"
      mode     = "fail"
    }

    reschedule {
      delay          = "10s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    task "scaler" {
      driver = "docker"
      # A look at everything, while Nomad answers late. Killed in the middle of one it breaks nothing.
      kill_timeout = "30s"

      config {
        image           = var.image
        args            = ["scaler"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 16777216
          }
        }
      }

      # The scaling blocks refuse more than these, and fewer than scaler.*.min of settings.toml.
      env {
        VOTEMILL_ENV                  = var.environment
        VOTEMILL_NOMAD__URL           = var.nomad_url
        VOTEMILL_SCALER__NODES__MAX   = var.node_count_max
        VOTEMILL_SCALER__VOTES__MAX   = var.votes_worker_count_max
        VOTEMILL_SCALER__HOST__MAX    = var.host_worker_count_max
        VOTEMILL_SECRETS__PROVIDER    = "files" # pragma: allowlist secret
        VOTEMILL_SECRETS__FOLDER      = "${NOMAD_SECRETS_DIR}"
        VOTEMILL_METRICS__STATSD_HOST = var.statsd_host
        VOTEMILL_BROKER__CA_FILE      = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_REDIS__CA_FILE       = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_NOMAD__CA_FILE       = "${NOMAD_SECRETS_DIR}/ca.pem"
      }

      # Read again by the running scaler, as the token below.
      template {
        destination = "${NOMAD_SECRETS_DIR}/broker.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-scaler" }}{{ .broker_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/nomad.token"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-scaler" }}{{ .nomad_token }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/votemill.env"
        env         = true
        change_mode = "restart"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-scaler" }}
VOTEMILL_REDIS__URL={{ .redis_url | toJSON }}
{{ end }}
EOT
      }

      # Of RabbitMQ's, Redis' and Nomad's certificates.
      template {
        destination = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode = "restart"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-scaler" }}{{ .ca }}{{ end }}
EOT
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
