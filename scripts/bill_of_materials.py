"""What an image is made of, as CycloneDX: Python and npm packages with their hashes, Debian packages of its base.

Versions come from the lock files that the image is built from, so this says the same as a look into it.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from scripts.release.checkout import described
from scripts.stack.run_folder import ROOT

PYTHON_LOCK = ROOT / "docker" / "requirements.lock"
NPM_LOCK = ROOT / "socket_tier" / "web" / "package-lock.json"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)((?:.|\n(?=\s))*)", re.MULTILINE)
_SHA512 = "sha512-"


class Incomplete(Exception):
    """A package can't be told; the message says which."""


def python_packages(lock: str) -> Iterator[Component]:
    for name, version, rest in _PINNED.findall(lock):
        hashes = [
            HashType(alg=HashAlgorithm.SHA_256, content=each) for each in re.findall(r"sha256:([0-9a-f]{64})", rest)
        ]
        if not hashes:
            raise Incomplete(f"{name} {version} has no hash")
        yield _component("pypi", name.lower(), version, hashes)


def npm_packages(lock: str) -> Iterator[Component]:
    for path, package in json.loads(lock)["packages"].items():
        if not path or package.get("dev"):
            continue
        if not package["integrity"].startswith(_SHA512):
            raise Incomplete(f"{path} has no SHA-512")
        content = base64.b64decode(package["integrity"].removeprefix(_SHA512)).hex()
        yield _component(
            "npm",
            path.rpartition("node_modules/")[2],
            package["version"],
            [HashType(alg=HashAlgorithm.SHA_512, content=content)],
        )


def debian_packages(status: str) -> Iterator[Component]:
    """As dpkg lists them in /var/lib/dpkg/status."""
    for block in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.MULTILINE))
        if fields["Status"] == "install ok installed":
            yield _component(
                "deb", fields["Package"], fields["Version"], [], "debian", {"arch": fields["Architecture"]}
            )


def _component(
    kind: str,
    name: str,
    version: str,
    hashes: list[HashType],
    namespace: str | None = None,
    qualifiers: dict[str, str] | None = None,
) -> Component:
    if kind == "npm" and "/" in name:
        namespace, name = name.split("/", 1)
    url = PackageURL(kind, namespace, name, version, qualifiers)
    return Component(
        type=ComponentType.LIBRARY, group=namespace if kind == "npm" else None, name=name, version=version, purl=url,
        bom_ref=str(url), hashes=hashes,
    )  # fmt: skip


def written(components: list[Component], version: str) -> str:
    """The document.

    :raises Incomplete: it isn't what CycloneDX's schema demands
    """
    votemill = Component(type=ComponentType.APPLICATION, name="votemill", version=version, bom_ref="votemill")
    bom = Bom(components=components)
    bom.metadata.component = votemill
    bom.register_dependency(votemill, components)
    text = str(JsonV1Dot6(bom).output_as_string(indent=2))
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise Incomplete(str(error).partition("\n")[0])
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sbom", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--root", type=Path, help="the image's file system, for its Debian packages")
    options = parser.parse_args()
    components = [*python_packages(PYTHON_LOCK.read_text()), *npm_packages(NPM_LOCK.read_text())]
    if options.root:
        components += debian_packages((options.root / "var/lib/dpkg/status").read_text())
    options.file.write_text(written(components, described()))
    print(f"✓ {len(components)} components in {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
