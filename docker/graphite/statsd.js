// Read as one expression by StatsD. Names become stats.counters.PREFIX.TIER.NAME.count, stats.timers...upper_95 and
// stats.gauges...; models/runtime/graphs.py knows how.
{
  address: process.env.STATSD_ADDRESS || "0.0.0.0",
  port: Number(process.env.STATSD_PORT || 8125),
  mgmt_address: "127.0.0.1",
  mgmt_port: Number(process.env.STATSD_MANAGEMENT_PORT || 8126),
  graphiteHost: process.env.GRAPHITE_HOST || "carbon",
  graphitePort: Number(process.env.GRAPHITE_PORT || 2003),
  graphite: { legacyNamespace: false },
  backends: ["./backends/graphite"],
  // The first archive in storage-schemas.conf has this very step: of two flushes within one only the last would stay.
  flushInterval: 10000,
  // Of 24 figures per timing the five that somebody looks at.
  percentThreshold: [50, 95, 99],
  calculatedTimerMetrics: ["mean", "upper", "upper_percent"],
  // Processes send their levels every second: one that is silent for three flushes is gone, and so are its levels.
  deleteGauges: true,
  gaugesMaxTTL: 3,
  title: false,
  automaticConfigReload: false
}
