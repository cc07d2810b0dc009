# The synthetic voter, scripts/probe: votes every few seconds as a browser does, by way of the balancers. It has no secrets.
# Its record, for `docker/run availability`, lies in the allocation's data folder and moves with it.
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }
variable "public_url" { type = string }
variable "statsd_host" { type = string }

job "votemill-probe" {
  datacenters = var.datacenters
  type        = "service"

  # No canary: two would write two records.
  update {
    max_parallel      = 1
    auto_revert       = true
    health_check      = "task_states"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "probe" {
    count = 1

    ephemeral_disk {
      sticky  = true
      migrate = true
      size    = 300
    }

    restart {
      attempts = 3
      interval = "2m"
      delay    = "5s"
      mode     = "delay"
    }

    reschedule {
      delay          = "10s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    task "probe" {
      driver       = "docker"
      kill_timeout = "45s"

      config {
        image           = var.image
        args            = ["probe"]
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
        VOTEMILL_PROBE__URL           = var.public_url
        VOTEMILL_PROBE__FOLDER        = "${NOMAD_ALLOC_DIR}/data"
        VOTEMILL_METRICS__STATSD_HOST = var.statsd_host
      }

      resources {
        cpu        = 100
        memory     = 96
        memory_max = 256
      }
    }
  }
}
