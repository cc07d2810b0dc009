# An example Redis. It holds only what can be rebuilt, so it keeps nothing on disk; when it comes back empty, the workers
# fill it again.
variable "datacenters" { type = list(string) }

job "votemill-redis" {
  datacenters = var.datacenters
  type        = "service"

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "2m"
    progress_deadline = "4m"
  }

  group "redis" {
    count = 1

    network {
      port "redis" {
        static = 6379
      }
    }

    service {
      name     = "votemill-redis"
      port     = "redis"
      provider = "nomad"

      check {
        name     = "accepts"
        type     = "tcp"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "redis" {
      driver       = "docker"
      kill_timeout = "20s"

      config {
        image           = "redis:7-bookworm"
        ports           = ["redis"]
        args            = ["redis-server", "/secrets/redis.conf"]
        readonly_rootfs = true
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/redis.conf"
        change_mode = "restart"
        data        = <<EOT
save ""
appendonly no
dir /local
maxmemory 1500mb
maxmemory-policy noeviction
aclfile /secrets/users.acl
port 0
tls-port 6379
tls-cert-file /secrets/server.pem
tls-key-file /secrets/server.key
tls-auth-clients no
EOT
      }

      # The accounts: redis.acl of scripts/accounts.
      template {
        destination = "${NOMAD_SECRETS_DIR}/users.acl"
        change_mode = "restart"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-redis" }}{{ .acl }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/server.pem"
        change_mode = "restart"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-redis" }}{{ .certificate }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/server.key"
        change_mode = "restart"
        perms       = "0400"
        uid         = 999
        gid         = 999
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-redis" }}{{ .key }}{{ end }}
EOT
      }

      resources {
        cpu    = 1000
        memory = 2048
      }
    }
  }
}
