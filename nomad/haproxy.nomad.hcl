# The balancers, where browsers arrive. Secrets: the Nomad variable nomad/jobs/votemill-haproxy. Its configuration is
# written by scripts/balancer-config; Nomad fills in the nodes.
variable "datacenters" { type = list(string) }
variable "haproxy_image" { type = string }
variable "haproxy_count" { type = number }

job "votemill-haproxy" {
  datacenters = var.datacenters
  type        = "service"

  # A balancer holds thousands of tunnels: one at a time, and rarely. No canary, since its port is taken.
  update {
    max_parallel      = 1
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "15s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "haproxy" {
    count = var.haproxy_count

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    restart {
      attempts = 3
      interval = "2m"
      delay    = "5s"
      mode     = "fail"
    }

    network {
      port "https" {
        static = 443
        to     = 8443
      }
    }

    service {
      name     = "votemill"
      port     = "https"
      provider = "nomad"

      check {
        name     = "accepts"
        type     = "tcp"
        interval = "5s"
        timeout  = "3s"

        check_restart {
          limit = 4
          grace = "30s"
        }
      }
    }

    task "haproxy" {
      driver = "docker"
      # On SIGUSR1 it takes nobody new and waits for its tunnels; these are what is cut at the end.
      kill_signal  = "SIGUSR1"
      kill_timeout = "45s"

      config {
        image           = var.haproxy_image
        args            = ["haproxy", "-W", "-db", "-f", "/local/haproxy.cfg"]
        ports           = ["https"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        ulimit {
          nofile = "100000:100000"
        }
      }

      template {
        destination   = "local/haproxy.cfg"
        data          = file("haproxy.cfg.tpl")
        change_mode   = "signal"
        change_signal = "SIGUSR2"

        # Nodes of one deployment come and go together: one reload for several.
        wait {
          min = "2s"
          max = "10s"
        }
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/balancer.env"
        env         = true
        change_mode = "restart"
        splay       = "5m"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-haproxy" }}
BALANCER_COOKIE_KEY={{ .cookie_key | toJSON }}
{{ end }}
EOT
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/site.pem"
        change_mode   = "signal"
        change_signal = "SIGUSR2"
        data          = <<EOT
{{ with nomadVar "nomad/jobs/votemill-haproxy" }}{{ .certificate_and_key }}{{ end }}
EOT
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
