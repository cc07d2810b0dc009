"""scripts/compose-secrets: accounts and keys for docker/compose.yaml, each made once and then kept."""

from __future__ import annotations

import json
import sys

from models import accounts
from models.runtime.settings import load
from scripts import server_accounts
from scripts.alerts import routing
from scripts.stack.run_folder import ROOT, RunFolder, write_env, write_private

# Read in the containers by other accounts than ours; the folder around them is closed to others on this machine.
_FOR_SERVERS = (
    "postgres.sql",
    "rabbitmq.json",
    "redis.acl",
    "alertmanager.yml",
    "secrets/database-password",
    "secrets/grafana-admin-password",
)


def main() -> int:
    folder = RunFolder(ROOT / ".run-compose")
    folder.create()
    server_accounts.write(folder)
    folder.secret("database-password")
    folder.secret("grafana-admin-password")
    common = {
        "VOTEMILL_ENV": "development",
        "VOTEMILL_AUDIT__ADDRESS_KEY": folder.secret("audit-address-key"),
        # Of the profile metrics; without it nobody is there, which only a counter notices.
        "VOTEMILL_METRICS__STATSD_HOST": "statsd",
    }
    for_nodes = {
        "VOTEMILL_NODE__PUBLIC_URL": "http://localhost:4000",
        "VOTEMILL_SECURITY__SIGNING_KEYS": f"@json {json.dumps([folder.secret('signing-key')])}",
        "VOTEMILL_SECURITY__ADMIN_TOKEN": folder.secret("admin-token"),
        "VOTEMILL_SECURITY__TRUSTED_PROXIES": '@json ["10.231.77.2"]',
        "VOTEMILL_METRICS__GRAPHITE_URL": "http://graphite:8080",
    }
    write_env(folder.path / "migrate.env", common | _addresses(folder, accounts.OWNER))
    write_env(folder.path / "node.env", common | _addresses(folder, accounts.NODE) | for_nodes)
    write_env(folder.path / "votes-worker.env", common | _addresses(folder, accounts.VOTES_WORKER))
    write_env(folder.path / "host-worker.env", common | _addresses(folder, accounts.HOST_WORKER))
    for_alerter = {
        "VOTEMILL_ENV": common["VOTEMILL_ENV"],
        "VOTEMILL_METRICS__GRAPHITE_URL": for_nodes["VOTEMILL_METRICS__GRAPHITE_URL"],
        "VOTEMILL_ALERTS__ALERTMANAGER_URL": "http://alertmanager:9093",
    }
    write_env(folder.path / "alerter.env", for_alerter)
    # The channels are those of this shell's variables, VOTEMILL_ALERTS__...
    write_private(folder.path / "alertmanager.yml", routing.configuration(load(unused={"secrets"}).alerts))
    write_env(folder.path / "balancer.env", {"BALANCER_COOKIE_KEY": folder.secret("balancer-cookie-key")})
    folder.path.chmod(0o700)
    for name in _FOR_SERVERS:
        (folder.path / name).chmod(0o644)
    print(f"✓ secrets for docker/compose.yaml in {folder.path.relative_to(ROOT)}")
    return 0


def _addresses(folder: RunFolder, account: str) -> dict[str, str]:
    """Those of the servers that know the account."""
    found = {}
    if account == accounts.OWNER or account in accounts.GROUPS:
        found["DATABASE"] = f"postgresql://{account}:{folder.secret(f'database-{account}')}@postgres/votemill"
    if account in accounts.PERMISSIONS:
        found["BROKER"] = f"amqp://{account}:{folder.secret(f'broker-{account}')}@rabbitmq/%2F"
    if account in accounts.RULES:
        found["REDIS"] = f"redis://{account}:{folder.secret(f'redis-{account}')}@redis/0"
    return {f"VOTEMILL_{section}__URL": url for section, url in found.items()}


if __name__ == "__main__":
    sys.exit(main())
