"""Where Alertmanager posts alerts: a server on this machine that remembers what came, and when."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripts.stack import ports


@dataclass(frozen=True)
class Notice:
    """One alert of one post. ``at``: monotonic seconds."""

    alert: str
    status: str  # firing or resolved
    labels: dict[str, str]
    annotations: dict[str, str]
    at: float


class Webhook:
    """Listens while the context is open."""

    def __init__(self, port: int) -> None:
        self.url = f"http://{ports.LOOPBACK}:{port}/alerts"
        self.notices: list[Notice] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                hook.take(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((ports.LOOPBACK, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def take(self, post: dict[str, Any]) -> None:
        now = time.monotonic()
        for one in post["alerts"]:
            labels = one["labels"]
            self.notices.append(Notice(labels["alertname"], one["status"], labels, one["annotations"], now))

    def first(self, alert: str, status: str, since: float) -> Notice | None:
        """The first notice of this alert since a moment."""
        return next(
            (one for one in self.notices if one.alert == alert and one.status == status and one.at >= since), None
        )
