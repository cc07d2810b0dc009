"""Certificates for scripts/up --tls: a CA of the run folder's own, and what it signs for servers and our processes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlencode

import trustme

from scripts.stack import ports
from scripts.stack.data_folders import write_for_server
from scripts.stack.run_folder import RunFolder, write_private

CA, SERVER, CLIENT = "ca.pem", "server", "client"  # the latter two with .pem and .key
KEYS = ("ca_file", "certificate_file", "key_file")  # of the settings
# By which names, behind what, the same files stand in an address.
_IN_URLS = {
    "postgresql": ("sslmode=verify-full&", "sslrootcert", "sslcert", "sslkey"),
    "amqps": ("", "cafile", "certfile", "keyfile"),
    "rediss": ("", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
}
_IDENTITIES = {SERVER: ports.LOOPBACK, CLIENT: "votemill@client.invalid"}


def make(folder: RunFolder) -> Path:
    """The folder that they lie in; made once, since a CA that changes would be news to whoever runs."""
    place = folder.path / "tls"
    if not (place / CA).exists():
        place.mkdir(mode=0o700, exist_ok=True)
        ca = trustme.CA()
        for name, identity in _IDENTITIES.items():
            issued = ca.issue_cert(identity)
            write_private(place / f"{name}.pem", issued.cert_chain_pems[0].bytes().decode())
            write_private(place / f"{name}.key", issued.private_key_pem.bytes().decode())
        write_private(place / "ca.key", ca.private_key_pem.bytes().decode())
        write_private(place / CA, ca.cert_pem.bytes().decode())
    return place


def give_to_server(folder: RunFolder, data: Path) -> None:
    """Copies for a server that can't read the run folder."""
    for name in (CA, f"{SERVER}.pem", f"{SERVER}.key"):
        write_for_server(data / name, (make(folder) / name).read_text())


def settings(folder: RunFolder) -> dict[str, str]:
    """What the keys of a server's section are, for our processes."""
    place = make(folder)
    return dict(zip(KEYS, map(str, (place / CA, place / f"{CLIENT}.pem", place / f"{CLIENT}.key")), strict=True))


def whole_url(url: str, folder: RunFolder) -> str:
    """An address for who knows nothing of our settings, with everything in it that TLS needs."""
    prefix, ca, certificate, key = next(names for scheme, names in _IN_URLS.items() if url.startswith(scheme))
    files = dict(zip((ca, certificate, key), settings(folder).values(), strict=True))
    if url.startswith("amqps"):
        return f"{url}?ssl_options={quote(repr(files | {'server_hostname': _IDENTITIES[SERVER]}))}"
    return f"{url}?{prefix}{urlencode(files)}"
