# An example for a place that has no PostgreSQL yet: one server on one machine's disk. It has neither standby nor backups;
# a managed or a packaged PostgreSQL with both is the better choice for production.
variable "datacenters" { type = list(string) }

job "votemill-postgres" {
  datacenters = var.datacenters
  type        = "service"

  # The old one must be gone before the new one opens the same files.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "5m"
    progress_deadline = "12m"
  }

  group "postgres" {
    count = 1

    volume "data" {
      type      = "host"
      source    = "votemill-postgres"
      read_only = false
    }

    network {
      port "sql" {
        static = 5432
      }
    }

    service {
      name     = "votemill-postgres"
      port     = "sql"
      provider = "nomad"

      check {
        name     = "accepts"
        type     = "tcp"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "postgres" {
      driver = "docker"
      # A fast shutdown writes a checkpoint; without it the next start replays the log.
      kill_signal  = "SIGINT"
      kill_timeout = "5m"

      config {
        image    = "postgres:15-bookworm"
        ports    = ["sql"]
        shm_size = 268435456
        # Durability stays as PostgreSQL has it: fsync, synchronous_commit and full_page_writes on.
        args = [
          "postgres", "-c", "max_connections=300", "-c", "wal_keep_size=1GB", "-c", "ssl=on",
          "-c", "ssl_cert_file=/secrets/server.pem", "-c", "ssl_key_file=/secrets/server.key",
          "-c", "hba_file=/local/pg_hba.conf",
        ]
      }

      env {
        POSTGRES_DB            = "votemill"
        POSTGRES_PASSWORD_FILE = "${NOMAD_SECRETS_DIR}/password"
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/postgresql/data"
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/password"
        # Read at the first start alone; later a password is changed with ALTER ROLE.
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-postgres" }}{{ .password }}{{ end }}
EOT
      }

      # Over the network TLS alone; who is in the container may do everything anyway.
      template {
        destination = "local/pg_hba.conf"
        change_mode = "noop"
        data        = <<EOT
local   all all     trust
hostssl all all all scram-sha-256
EOT
      }

      # Of user 999, postgres in the image, and closed to others: it refuses a key that is not.
      template {
        destination   = "${NOMAD_SECRETS_DIR}/server.pem"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<EOT
{{ with nomadVar "nomad/jobs/votemill-postgres" }}{{ .certificate }}{{ end }}
EOT
      }

      template {
        destination   = "${NOMAD_SECRETS_DIR}/server.key"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        perms         = "0400"
        uid           = 999
        gid           = 999
        data          = <<EOT
{{ with nomadVar "nomad/jobs/votemill-postgres" }}{{ .key }}{{ end }}
EOT
      }

      resources {
        cpu    = 4000
        memory = 4096
      }
    }
  }
}
