"""How long the servers' certificates are still good, seen by handshakes of our own."""

import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping

from models.runtime import tls
from models.runtime.settings import ServerSettings

log = logging.getLogger(__name__)

_PORTS = {"database": 5432, "broker": 5671, "redis": 6379}
_DAY_S = 86_400
_TIMEOUT_S = 3.0
_LOOK_EVERY_S = 3600.0
_AGAIN_AFTER_S = 60.0

# PostgreSQL speaks TLS only when it is asked to, by a message of eight bytes, and then says S.
_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)


def days_left(name: str, server: ServerSettings) -> float:
    """Of the certificate that expires first among the servers of a section of the settings that has a ``ca_file``.

    :raises OSError: one can't be reached, or is not to be trusted
    """
    found = [address for url in server.urls for address in tls.addresses(url, _PORTS[name])]
    return min(_expires_at(name, server, *address) - time.time() for address in found) / _DAY_S


def _expires_at(name: str, server: ServerSettings, host: str, port: int) -> float:
    context = tls.context(server)
    assert context is not None
    with socket.create_connection((host, port), _TIMEOUT_S) as plain:
        if name == "database":
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise OSError("the server does not support SSL")
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            return ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))


class CertificateWatch:
    """Tells by gauges, ``tls.NAME_days_left``, and says which setting is to blame for a certificate that is of no use.

    ``round`` is to be called now and then; it looks once an hour, or once a minute while something is wrong.
    """

    EVERY_S = 5.0

    def __init__(self, servers: Mapping[str, ServerSettings], gauge: Callable[[str, float], None]) -> None:
        self.servers = {name: server for name, server in servers.items() if server.ca_file}
        self._gauge = gauge
        self._next_look = 0.0

    def round(self) -> None:
        """Waits at most some seconds for each server."""
        if time.monotonic() < self._next_look:
            return
        pause_s = _LOOK_EVERY_S
        for name, server in self.servers.items():
            try:
                self._gauge(f"tls.{name}_days_left", days_left(name, server))
            except OSError as error:
                pause_s = _AGAIN_AFTER_S
                log.warning("certificate_unseen", extra={"server": name, "error": tls.explained(name, error)})
        self._next_look = time.monotonic() + pause_s
