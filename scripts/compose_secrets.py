"""scripts/compose-secrets: passwords and keys for docker/compose.yaml, each made once and then kept."""

from __future__ import annotations

import json
import sys

from scripts.stack.run_folder import ROOT, RunFolder, write_env, write_private
from scripts.stack.services import rabbitmq


def main() -> int:
    folder = RunFolder(ROOT / ".run-compose")
    folder.create()
    database, broker = folder.secret("database-password"), folder.secret("broker-password")
    write_env(
        folder.path / "votemill.env",
        {
            "VOTEMILL_ENV": "development",
            "VOTEMILL_DATABASE__URL": f"postgresql://votemill:{database}@postgres/votemill",
            "VOTEMILL_BROKER__URL": f"amqp://votemill:{broker}@rabbitmq/%2F",
            "VOTEMILL_REDIS__URL": "redis://redis/0",
            "VOTEMILL_NODE__PUBLIC_URL": "http://localhost:4000",
            "VOTEMILL_SECURITY__SIGNING_KEYS": f"@json {json.dumps([folder.secret('signing-key')])}",
            "VOTEMILL_SECURITY__ADMIN_TOKEN": folder.secret("admin-token"),
            "VOTEMILL_SECURITY__TRUSTED_PROXIES": '@json ["10.231.77.2"]',
            "VOTEMILL_AUDIT__ADDRESS_KEY": folder.secret("audit-address-key"),
            # Of the profile metrics; without it nobody is there, which only a counter notices.
            "VOTEMILL_METRICS__STATSD_HOST": "statsd",
            "VOTEMILL_METRICS__GRAPHITE_URL": "http://graphite:8080",
        },
    )
    write_env(folder.path / "balancer.env", {"BALANCER_COOKIE_KEY": folder.secret("balancer-cookie-key")})
    definitions = folder.path / "definitions.json"
    write_private(definitions, json.dumps(rabbitmq.definitions(broker), indent=2))
    # Read in the containers by other accounts than ours; the folder around them is closed to others on this machine.
    folder.path.chmod(0o700)
    definitions.chmod(0o644)
    folder.secret("grafana-admin-password")
    for name in ("database-password", "grafana-admin-password"):
        (folder.secrets / name).chmod(0o644)
    print(f"✓ secrets for docker/compose.yaml in {folder.path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
