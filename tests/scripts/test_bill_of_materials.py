"""The bill of materials names all that the image holds, and is what CycloneDX demands."""

import json

import pytest

from scripts.bill_of_materials import (
    NPM_LOCK,
    PYTHON_LOCK,
    Incomplete,
    debian_packages,
    npm_packages,
    python_packages,
    written,
)

pytestmark = pytest.mark.proves("FR-025")
STATUS = """\
Package: tini
Status: install ok installed
Architecture: amd64
Version: 0.19.0-1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_it_names_every_locked_package_with_its_hashes() -> None:
    components = [*python_packages(PYTHON_LOCK.read_text()), *npm_packages(NPM_LOCK.read_text())]
    document = json.loads(written([*components, *debian_packages(STATUS)], "1.2.3"))
    assert document["metadata"]["component"]["version"] == "1.2.3"
    found = {component["purl"]: component for component in document["components"]}
    pinned = [line for line in PYTHON_LOCK.read_text().splitlines() if "==" in line and not line.startswith("#")]
    assert sum(url.startswith("pkg:pypi/") for url in found) == len(pinned)
    assert any(url.startswith("pkg:pypi/psycopg2-binary@") for url in found)
    assert any(url.startswith("pkg:npm/socket.io-client@") for url in found)
    assert all(component["hashes"] for url, component in found.items() if not url.startswith("pkg:deb/"))
    assert [url for url in found if url.startswith("pkg:deb/")] == ["pkg:deb/debian/tini@0.19.0-1?arch=amd64"]


@pytest.mark.parametrize("lock", ["aiohttp==3.14.5\n", "aiohttp==3.14.5 \\\n    --hash=md5:00\n"])
def test_a_package_without_a_hash_is_refused(lock: str) -> None:
    with pytest.raises(Incomplete, match=r"aiohttp 3\.14\.5 has no hash"):
        list(python_packages(lock))
