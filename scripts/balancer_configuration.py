"""scripts/balancer-config: writes HAProxy's configuration for containers and for Nomad from that of scripts/up.

What the nodes rely on (checks, cookies, retries, answers when nobody is there) so stands in one place.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.stack.run_folder import ROOT
from scripts.stack.services import haproxy

_CONNECTIONS = 40_000  # of browsers; twice as many files, see the jobs' limits
_COOKIE_KEY = '"${BALANCER_COOKIE_KEY}"'  # HAProxy reads it from its environment

# Compose's name server knows the addresses of all containers of a service.
_BY_NAME = [
    'server-template node- 16 "${NODES}" resolvers names init-addr none resolve-prefer ipv4',
]
_NAME_SERVER = """
resolvers names
    parse-resolv-conf
    accepted_payload_size 8192
    hold valid 1s
    hold obsolete 5s
"""

# Nomad reloads it when nodes come and go: the process before keeps its tunnels until they end.
_TUNNELS_OUTLIVE_A_RELOAD = "6h"

# Nomad's template names every node that is registered, healthy or not; HAProxy's own checks decide.
_BY_TEMPLATE = [
    '{{ range nomadService "votemill-node" }}',
    "server {{ .ID }} {{ .Address }}:{{ .Port }}",
    "{{ end }}",
]


def configurations() -> dict[Path, str]:
    """Each file with what belongs in it."""
    compose = haproxy.configuration(bind="*:8080", connections=_CONNECTIONS, cookie_key=_COOKIE_KEY, servers=_BY_NAME)
    nomad = haproxy.configuration(
        bind="*:8443 ssl crt /secrets/site.pem alpn http/1.1",
        connections=_CONNECTIONS,
        cookie_key=_COOKIE_KEY,
        servers=_BY_TEMPLATE,
        hard_stop=_TUNNELS_OUTLIVE_A_RELOAD,
    )
    return {ROOT / "docker/haproxy/haproxy.cfg": compose + _NAME_SERVER, ROOT / "nomad/haproxy.cfg.tpl": nomad}


def main() -> int:
    for file, text in configurations().items():
        file.write_text(text)
        print(file.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
