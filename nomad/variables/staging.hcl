# What staging is: production's shape, smaller.
image           = "registry.example/votemill:0.1.0"
haproxy_image   = "haproxy:2.6-bookworm"

log_shipper_image = "registry.example/votemill-log-shipper:0.1.0"
log_receiver      = "logs.example"
log_receiver_port = 6514

datacenters     = ["staging"]
environment     = "staging"
public_url      = "https://staging.polls.example"
origins         = ["https://staging.polls.example"]
trusted_proxies = ["10.1.0.0/24"]
statsd_host     = "statsd.internal"
graphite_url    = "http://graphite.internal:8080"
nomad_url       = "https://nomad.staging.internal:4646"

alertmanager_url = "http://alertmanager-1.internal:9093,http://alertmanager-2.internal:9093"
runbook_url      = "https://code.example/votemill/blob/main/nomad/runbook.md"

haproxy_count          = 1
node_count             = 2
node_count_max         = 4
node_max_parallel      = 1
votes_worker_count     = 1
votes_worker_count_max = 2
host_worker_count      = 1
host_worker_count_max  = 2
rabbitmq_hosts         = ["broker-1", "broker-2", "broker-3"]
