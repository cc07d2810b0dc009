# Brings the logs of all nodes and workers to a central receiver: one shipper on each client, which reads what Nomad has
# written of their stdout. docker/rsyslog/ is its image.
variable "datacenters" { type = list(string) }
variable "log_shipper_image" { type = string }
variable "log_receiver" { type = string }
variable "log_receiver_port" { type = number }

job "votemill-logs" {
  datacenters = var.datacenters
  type        = "system"

  group "shipper" {
    # The client's alloc folder (nomad/README.md says how it is named there).
    volume "allocations" {
      type      = "host"
      source    = "votemill-allocations"
      read_only = true
    }

    # What waits for the receiver, and how far each file has been read, outlives a new version of this job.
    ephemeral_disk {
      sticky  = true
      migrate = false
      size    = 2000
    }

    restart {
      attempts = 3
      interval = "2m"
      delay    = "10s"
      mode     = "delay"
    }

    task "shipper" {
      driver       = "docker"
      kill_timeout = "20s"

      config {
        image           = var.log_shipper_image
        args            = ["rsyslogd", "-n", "-i", "NONE"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      volume_mount {
        volume      = "allocations"
        destination = "/allocations"
        read_only   = true
      }

      env {
        # Of the tasks of votemill-node, votemill-worker and votemill-probe.
        LOG_FILES    = "/allocations/*/alloc/logs/{node,votes,host,probe}.stdout.*"
        LOG_RECEIVER = var.log_receiver
        LOG_PORT     = "${var.log_receiver_port}"
        LOG_DRIVER   = "gtls"
        LOG_TLS      = "1"
        LOG_AUTH     = "x509/certvalid"
        LOG_SPOOL    = "${NOMAD_ALLOC_DIR}/data"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
