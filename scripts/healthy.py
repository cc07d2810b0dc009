"""``python -m scripts.healthy``: exit code 0 when the process of this container does its work, otherwise 1.

The health check of an image that has no curl. Workers and probes are healthy while their heartbeat file is fresh;
without one the container is a node, and healthy when it is ready for browsers.
"""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

from models.runtime.settings import SECTIONS, Settings, load_or_exit

_FRESH_S = 10  # of a heartbeat that comes about once a second
_TIMEOUT_S = 3


def main() -> int:
    settings = load_or_exit(unused=SECTIONS)
    file = settings.worker.heartbeat_file
    if file and Path(file).exists():
        age_s = time.time() - Path(file).stat().st_mtime
        healthy, said = age_s < _FRESH_S, f"the last heartbeat was {age_s:.0f} s ago"
    else:
        healthy, said = _node_is_ready(settings)
    print(said)
    return 0 if healthy else 1


def _node_is_ready(settings: Settings) -> tuple[bool, str]:
    everywhere = settings.node.host == "0.0.0.0"  # compared, not bound  # nosec B104
    host = "127.0.0.1" if everywhere else settings.node.host
    connection = http.client.HTTPConnection(host, settings.node.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/api/health/ready")
        answer = connection.getresponse()
        return answer.status == 200, answer.read(1000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return False, f"the node doesn't answer: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
