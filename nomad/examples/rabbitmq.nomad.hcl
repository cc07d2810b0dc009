# An example RabbitMQ: three brokers on three machines, so that quorum queues outlive the loss of any one. Each machine
# must know the others by name; rabbitmq_hosts names them, and the brokers' host names are theirs.
variable "datacenters" { type = list(string) }
variable "rabbitmq_hosts" { type = list(string) }

job "votemill-rabbitmq" {
  datacenters = var.datacenters
  type        = "service"

  # One broker at a time, and the next only when that one serves again: two of three are the majority.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "30s"
    healthy_deadline  = "5m"
    progress_deadline = "12m"
  }

  group "rabbitmq" {
    count = 3

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    volume "data" {
      type      = "host"
      source    = "votemill-rabbitmq"
      read_only = false
    }

    network {
      mode = "host"

      port "amqps" {
        static = 5671
      }
      port "epmd" {
        static = 4369
      }
      port "peers" {
        static = 25672
      }
    }

    service {
      name     = "votemill-rabbitmq"
      port     = "amqps"
      provider = "nomad"

      check {
        name     = "accepts"
        type     = "tcp"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "rabbitmq" {
      driver       = "docker"
      kill_timeout = "2m"

      config {
        image        = "rabbitmq:3.13"
        network_mode = "host"

        mount {
          type     = "bind"
          source   = "local/rabbitmq.conf"
          target   = "/etc/rabbitmq/conf.d/20-votemill.conf"
          readonly = true
        }
        mount {
          type     = "bind"
          source   = "secrets/erlang-cookie"
          target   = "/var/lib/rabbitmq/.erlang.cookie"
          readonly = true
        }
      }

      env {
        RABBITMQ_NODENAME = "rabbit@${attr.unique.hostname}"
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/rabbitmq/mnesia"
      }

      template {
        destination = "local/rabbitmq.conf"
        change_mode = "noop"
        data        = <<EOT
cluster_formation.peer_discovery_backend = classic_config
%{ for number, host in var.rabbitmq_hosts ~}
cluster_formation.classic_config.nodes.${number + 1} = rabbit@${host}
%{ endfor ~}
cluster_partition_handling = pause_minority
load_definitions = /secrets/definitions.json
listeners.tcp = none
listeners.ssl.default = 5671
ssl_options.certfile = /secrets/server.pem
ssl_options.keyfile = /secrets/server.key
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
disk_free_limit.absolute = 1GB
raft.wal_max_size_bytes = 67108864
EOT
      }

      # The accounts and docker/rabbitmq/policies.json: rabbitmq.json of scripts/accounts.
      template {
        destination = "${NOMAD_SECRETS_DIR}/definitions.json"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-rabbitmq" }}{{ .definitions }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/erlang-cookie"
        change_mode = "noop"
        perms       = "0400"
        uid         = 999
        gid         = 999
        data        = "{{ with nomadVar \"nomad/jobs/votemill-rabbitmq\" }}{{ .erlang_cookie }}{{ end }}"
      }

      # Read again by RabbitMQ within minutes.
      template {
        destination = "${NOMAD_SECRETS_DIR}/server.pem"
        change_mode = "noop"
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-rabbitmq" }}{{ .certificate }}{{ end }}
EOT
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/server.key"
        change_mode = "noop"
        perms       = "0400"
        uid         = 999
        gid         = 999
        data        = <<EOT
{{ with nomadVar "nomad/jobs/votemill-rabbitmq" }}{{ .key }}{{ end }}
EOT
      }

      resources {
        cpu    = 2000
        memory = 4096
      }
    }
  }
}
