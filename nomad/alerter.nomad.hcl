# Two alerters: they look at docker/alerts/rules.toml and tell Alertmanager, for whom what both say is one alert.
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }
variable "graphite_url" { type = string }
variable "alertmanager_url" { type = string }
variable "runbook_url" { type = string }

job "votemill-alerter" {
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

  group "alerter" {
    count = 2

    # A lost machine takes one of them with it.
    spread {
      attribute = "${node.unique.id}"
    }

    restart {
      attempts = 3
      interval = "2m"
      delay    = "5s"
      mode     = "delay"
    }

    task "alerter" {
      driver       = "docker"
      kill_timeout = "10s"

      config {
        image           = var.image
        args            = ["alerter"]
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
        VOTEMILL_ENV                      = var.environment
        VOTEMILL_METRICS__GRAPHITE_URL    = var.graphite_url
        VOTEMILL_ALERTS__ALERTMANAGER_URL = var.alertmanager_url
        VOTEMILL_ALERTS__RUNBOOK_URL      = var.runbook_url
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
