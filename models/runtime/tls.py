"""TLS to PostgreSQL, RabbitMQ and Redis: on where ``ca_file`` is set, and never without a look at whose certificate the
server shows and for which name it was made."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from models.runtime.settings import ServerSettings

# How addresses begin where TLS is on. PostgreSQL's may say it behind the question mark.
_SCHEMES = {"database": "postgres", "broker": "amqps://", "redis": "rediss://", "nomad": "https://"}
_SSL_MODES = r"\bsslmode=(require|verify-ca|verify-full)\b"

# What OpenSSL, libpq, PostgreSQL or the kernel say, and the key to look at; the first that fits.
_BLAME = {
    "not match host name|ostname mismatch|address mismatch": "url: the server's certificate is for other names",
    "certificate has expired": "ca_file: the server's certificate, or one of these, has expired",
    "verify failed": "ca_file: none of these CAs has signed the server's certificate, or it has expired",
    "no encryption|104, 'Connection reset": "ca_file: must be set if the server takes TLS alone",
    "wrong version number|record layer failure|not support SSL": "ca_file: is set, but the server speaks no TLS",
    "certificate required|valid client certificate|alert (unknown ca|certificate|handshake)": (
        "certificate_file: the server wants a certificate that its own CAs have signed"
    ),
}


def context(server: ServerSettings) -> ssl.SSLContext | None:
    """For new connections; None: they are plain. Reads the files anew.

    :raises OSError: one of them can't be used
    """
    if not server.ca_file:
        return None
    made = ssl.create_default_context(cafile=server.ca_file)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if server.certificate_file:
        # Without a password OpenSSL would ask for one at the terminal.
        made.load_cert_chain(server.certificate_file, server.key_file, password="")  # nosec B106
    return made


def libpq(server: ServerSettings) -> dict[str, str]:
    """Parameters for a connection to PostgreSQL; they go before those of its URL."""
    if not server.ca_file:
        return {}
    own = {"sslcert": server.certificate_file, "sslkey": server.key_file} if server.certificate_file else {}
    return {"sslmode": "verify-full", "sslrootcert": server.ca_file, "ssl_min_protocol_version": "TLSv1.2", **own}


def redis_options(server: ServerSettings) -> dict[str, Any]:
    """Arguments for a client of Redis, beside its URL."""
    if not server.ca_file:
        return {}
    own = {"ssl_certfile": server.certificate_file, "ssl_keyfile": server.key_file} if server.certificate_file else {}
    checks = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
    return {"ssl_ca_certs": server.ca_file, **checks, **own}


def explained(name: str, error: BaseException | str) -> str:
    """What an error of a connection says and, where TLS may be to blame, a key of the server's section ``name``."""
    # Some errors say nothing by str, others not enough by repr.
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}" if str(error) else repr(error)
    blame = next((blame for signs, blame in _BLAME.items() if re.search(signs, text)), None)
    return f"{text}; {name}.{blame}" if blame else text


def addresses(url: str, port: int) -> list[tuple[str, int]]:
    """Host and port of each server that a URL names, ``port`` where it names none; without Unix sockets."""
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    # libpq takes several hosts, and lets a parameter go before them.
    named = asked.get("host", [parts.netloc.rpartition("@")[2]])[0]
    found = [urlsplit(f"//{each}") for each in named.split(",") if not each.startswith(("/", "%2F"))]
    return [(each.hostname, each.port or port) for each in found if each.hostname]


def contradictions(name: str, server: ServerSettings, production: bool) -> Iterator[str]:
    """What is wrong with the settings of a server, the section ``name``; one line for each, beginning with the key."""
    try:
        hosts = [[host for host, _ in addresses(url, 0)] for url in server.urls]
    except ValueError:
        yield f"{name}.url: a port must be a number, 0..65535"
        return
    if bool(server.certificate_file) != bool(server.key_file):
        yield f"{name}.key_file: must be given together with {name}.certificate_file"
    elif server.ca_file:
        yield from _unusable_files(name, server)
    elif server.certificate_file:
        yield f"{name}.certificate_file: has no use without {name}.ca_file"
    if server.ca_file:
        yield from _weak(name, server, hosts)
    else:
        yield from _plain(name, server, hosts, production)


def _weak(name: str, server: ServerSettings, hosts: list[list[str]]) -> Iterator[str]:
    if not all(hosts):
        yield f"{name}.ca_file: has no use where an address names no host"
    elif not all(url.startswith(_SCHEMES[name]) for url in server.urls):
        yield f"{name}.url: must begin with {_SCHEMES[name]} where {name}.ca_file is set"
    if name != "database" and any("ssl_" in urlsplit(url).query for url in server.urls):
        yield f"{name}.url: must leave the checks of TLS to {name}.ca_file and the keys beside it"


def _plain(name: str, server: ServerSettings, hosts: list[list[str]], production: bool) -> Iterator[str]:
    far = sorted({host for each in hosts for host in each if not _is_loopback(host)})
    if any(
        url.startswith(("amqps:", "rediss:", "https:")) or re.search(_SSL_MODES, urlsplit(url).query)
        for url in server.urls
    ):
        yield f"{name}.ca_file: must name the CAs of the server's certificate, since {name}.url asks for TLS"
    elif far and production and not server.plain_allowed:
        yield (
            f"{name}.ca_file: a plain connection to {', '.join(far)} is refused in production; name the CAs of the"
            f" server's certificate or, where the network itself encrypts, set {name}.plain_allowed"
        )


def _unusable_files(name: str, server: ServerSettings) -> Iterator[str]:
    """The first of them that can't be read, or is not what it should be."""
    key = ""
    try:
        for key in ("ca_file", "certificate_file", "key_file"):
            if file := getattr(server, key):
                Path(file).open().close()
        key = "ca_file"
        ssl.create_default_context(cafile=server.ca_file)
        key = "certificate_file"
        context(server)
    except OSError as error:
        yield f"{name}.{key}: {getattr(server, key)}: {error.strerror or error}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
