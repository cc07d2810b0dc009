# The workers: votes have a group of their own, so that a backlog of votes never delays a host. Secrets: a Nomad variable
# for each group, nomad/jobs/votemill-worker/votes and .../host (nomad/README.md lists their keys).
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }
variable "statsd_host" { type = string }
variable "votes_worker_count" { type = number }
variable "votes_worker_count_max" { type = number }
variable "host_worker_count" { type = number }
variable "host_worker_count_max" { type = number }

job "votemill-worker" {
  datacenters = var.datacenters
  type        = "service"

  # A worker has no port to ask: it is healthy when it has run for a while. One that can't reach its servers waits for
  # them; one with wrong settings exits with 78 and fails the deployment.
  update {
    canary            = 1
    max_parallel      = 1
    auto_promote      = true
    auto_revert       = true
    health_check      = "task_states"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "votes" {
    count = var.votes_worker_count

    scaling {
      enabled = true
      min     = 1
      max     = var.votes_worker_count_max
    }

    spread {
      attribute = "${node.unique.id}"
    }

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

    task "votes" {
      driver = "docker"
      # worker.kill_timeout_s; the clients' max_kill_timeout must allow it.
      kill_timeout = "45s"

      config {
        image           = var.image
        args            = ["worker", "votes"]
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

      env {
        VOTEMILL_ENV                  = var.environment
        VOTEMILL_WORKER__NAME         = "votes-${NOMAD_ALLOC_INDEX}"
        VOTEMILL_SECRETS__PROVIDER    = "files" # pragma: allowlist secret
        VOTEMILL_SECRETS__FOLDER      = "${NOMAD_SECRETS_DIR}"
        VOTEMILL_METRICS__STATSD_HOST = var.statsd_host
        VOTEMILL_DATABASE__CA_FILE    = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_BROKER__CA_FILE      = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_REDIS__CA_FILE       = "${NOMAD_SECRETS_DIR}/ca.pem"
      }

      # Read again by the running worker: rotating them restarts nobody.
      template {
        destination = "${NOMAD_SECRETS_DIR}/database.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/votes" }}{{ .database_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/broker.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/votes" }}{{ .broker_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/votemill.env"
        env         = true
        change_mode = "restart"
        splay       = "2m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/votes" }}
VOTEMILL_REDIS__URL={{ .redis_url | toJSON }}
VOTEMILL_AUDIT__ADDRESS_KEY={{ .address_key | toJSON }}
{{ end }}
EOT
      }

      # Of the three servers' certificates.
      template {
        destination = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode = "restart"
        splay       = "2m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/votes" }}{{ .ca }}{{ end }}
EOT
      }

      resources {
        cpu        = 1000
        memory     = 256
        memory_max = 1024
      }
    }
  }

  group "host" {
    count = var.host_worker_count

    scaling {
      enabled = true
      min     = 1
      max     = var.host_worker_count_max
    }

    spread {
      attribute = "${node.unique.id}"
    }

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

    task "host" {
      driver = "docker"
      # worker.kill_timeout_s; the clients' max_kill_timeout must allow it.
      kill_timeout = "45s"

      config {
        image           = var.image
        args            = ["worker", "host"]
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

      env {
        VOTEMILL_ENV                  = var.environment
        VOTEMILL_WORKER__NAME         = "host-${NOMAD_ALLOC_INDEX}"
        VOTEMILL_SECRETS__PROVIDER    = "files" # pragma: allowlist secret
        VOTEMILL_SECRETS__FOLDER      = "${NOMAD_SECRETS_DIR}"
        VOTEMILL_METRICS__STATSD_HOST = var.statsd_host
        VOTEMILL_DATABASE__CA_FILE    = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_BROKER__CA_FILE      = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_REDIS__CA_FILE       = "${NOMAD_SECRETS_DIR}/ca.pem"
      }

      # Read again by the running worker: rotating them restarts nobody.
      template {
        destination = "${NOMAD_SECRETS_DIR}/database.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/host" }}{{ .database_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/database.replica_url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/host" }}{{ with .replica_url }}{{ . }}{{ end }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/broker.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/host" }}{{ .broker_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/votemill.env"
        env         = true
        change_mode = "restart"
        splay       = "2m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/host" }}
VOTEMILL_REDIS__URL={{ .redis_url | toJSON }}
VOTEMILL_AUDIT__ADDRESS_KEY={{ .address_key | toJSON }}
{{ end }}
EOT
      }

      # Of the three servers' certificates.
      template {
        destination = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode = "restart"
        splay       = "2m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-worker/host" }}{{ .ca }}{{ end }}
EOT
      }

      resources {
        cpu        = 1000
        memory     = 256
        memory_max = 1024
      }
    }
  }
}
