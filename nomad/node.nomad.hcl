# The socket nodes. Secrets: the Nomad variable nomad/jobs/votemill-node (nomad/README.md lists its keys).
variable "image" { type = string }
variable "datacenters" { type = list(string) }
variable "environment" { type = string }
variable "public_url" { type = string }
variable "origins" { type = list(string) }
variable "trusted_proxies" { type = list(string) }
variable "statsd_host" { type = string }
variable "graphite_url" { type = string }
variable "node_count" { type = number }
variable "node_count_max" { type = number }
variable "node_max_parallel" { type = number }

job "votemill-node" {
  datacenters = var.datacenters
  type        = "service"

  # A new version shows itself with one canary; without a person's hand the others follow, or it is taken back.
  update {
    canary            = 1
    max_parallel      = var.node_max_parallel
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "node" {
    count = var.node_count

    scaling {
      enabled = true
      min     = 2
      max     = var.node_count_max
    }

    # A lost machine takes one node with it, not all.
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

    network {
      port "http" {
        to = 4000
      }
    }

    service {
      name     = "votemill-node"
      port     = "http"
      provider = "nomad"

      # Gates the deployment. No restart for it: a node that drains, or waits for the broker, is not broken.
      check {
        name     = "ready"
        type     = "http"
        path     = "/api/health/ready"
        interval = "5s"
        timeout  = "3s"
      }

      check {
        name     = "live"
        type     = "http"
        path     = "/api/health/live"
        interval = "5s"
        timeout  = "3s"

        check_restart {
          limit = 4
          grace = "30s"
        }
      }
    }

    task "node" {
      driver = "docker"
      # node.kill_timeout_s; the clients' max_kill_timeout must allow it.
      kill_timeout = "45s"
      # Between leaving the balancer's list and SIGTERM, so that nobody new is sent here meanwhile.
      shutdown_delay = "2s"

      config {
        image           = var.image
        args            = ["node"]
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        ulimit {
          nofile = "100000:100000"
        }

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 16777216
          }
        }
      }

      env {
        VOTEMILL_ENV                         = var.environment
        VOTEMILL_NODE__NAME                  = "node-${NOMAD_ALLOC_INDEX}"
        VOTEMILL_NODE__PUBLIC_URL            = var.public_url
        VOTEMILL_SECRETS__PROVIDER           = "files" # pragma: allowlist secret
        VOTEMILL_SECRETS__FOLDER             = "${NOMAD_SECRETS_DIR}"
        VOTEMILL_METRICS__STATSD_HOST        = var.statsd_host
        VOTEMILL_METRICS__GRAPHITE_URL       = var.graphite_url
        VOTEMILL_BROKER__CA_FILE             = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_REDIS__CA_FILE              = "${NOMAD_SECRETS_DIR}/ca.pem"
        VOTEMILL_SECURITY__SIGNING_KEYS_FILE = "${NOMAD_SECRETS_DIR}/signing-keys.json"
        VOTEMILL_SECURITY__ORIGINS           = "@json ${jsonencode(var.origins)}"
        VOTEMILL_SECURITY__TRUSTED_PROXIES   = "@json ${jsonencode(var.trusted_proxies)}"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/votemill.env"
        env         = true
        change_mode = "restart"
        # A changed password must not restart every node in the same second.
        splay = "2m"
        data  = <<EOT
{{ with nomadVar "nomad/jobs/votemill-node" }}
VOTEMILL_REDIS__URL={{ .redis_url | toJSON }}
VOTEMILL_AUDIT__ADDRESS_KEY={{ .address_key | toJSON }}
{{ end }}
EOT
      }

      # Of RabbitMQ's and Redis' certificates.
      template {
        destination = "${NOMAD_SECRETS_DIR}/ca.pem"
        change_mode = "restart"
        splay       = "2m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-node" }}{{ .ca }}{{ end }}
EOT
      }

      # Read again by the running node, as the signing keys below: rotating them restarts nobody.
      template {
        destination = "${NOMAD_SECRETS_DIR}/broker.url"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-node" }}{{ .broker_url }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/security.admin_token"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-node" }}{{ .admin_token }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/signing-keys.json"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-node" }}{{ .signing_keys }}{{ end }}
EOT
      }

      resources {
        cpu        = 1000
        memory     = 512
        memory_max = 2048
      }
    }
  }
}
