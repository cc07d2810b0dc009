"""What browsers fetch: little, kept for good under its hash, and every document of the interface rendered."""

import gzip
import re
import urllib.error
import urllib.request

import pytest
import yaml
from playwright.sync_api import expect

from socket_tier.pages import WEB, Site
from tests.web.pages import VotemillPage

LIMIT_BYTES = 60_000
# What reads YAML on /docs, and the operators' page: nobody who votes or hosts fetches these.
APART = re.compile(r"vendor/js-yaml|(pages|style)/(docs|operations)\.|ui/(schema|chart)\.")

LEADING_NOWHERE = """[...document.querySelectorAll('main a[href^="#"]')].map((link) => link.hash)
  .filter((hash) => !document.getElementById(hash.slice(1)))"""


def fetch(base_url, path, **headers):
    with urllib.request.urlopen(urllib.request.Request(base_url + path, headers=headers), timeout=20) as answer:
        return answer.status, answer.headers, answer.read()


def test_all_that_hosts_and_participants_fetch_is_under_60_kilobytes():
    site = Site()
    documents = [site.document(f"{name}.html") for name in ("index", "host", "participant", "screen")]
    assets = [asset for name, asset in site.assets.items() if not APART.search(name)]
    assert len(assets) > 30 and "vendor/lean-qr.mjs" in site.assets and "vendor/socket.io.esm.min.js" in site.assets
    assert sum(len(content.compressed) for content in documents + assets) < LIMIT_BYTES


def test_assets_under_the_hash_are_kept_for_good_and_others_asked_for_again(base_url):
    # Given a document with its hash
    _, headers, body = fetch(base_url, "/")
    assert headers["Cache-Control"] == "no-cache"
    script = re.search(r'src="(/assets/[0-9a-f]{16}/pages/home\.js)"', body.decode())[1]
    # When its script is fetched, then browsers may keep it
    _, headers, plain = fetch(base_url, script)
    assert "immutable" in headers["Cache-Control"]
    _, headers, compressed = fetch(base_url, script, **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(compressed) == plain
    # And without the hash, or with that of another version, they may not
    for path in ("/assets/pages/home.js", "/assets/0123456789abcdef/pages/home.js"):
        _, headers, same = fetch(base_url, path)
        assert headers["Cache-Control"] == "no-cache" and same == plain
    # But are told when they have it already
    with pytest.raises(urllib.error.HTTPError, match="304"):
        fetch(base_url, "/assets/pages/home.js", **{"If-None-Match": headers["ETag"]})


def test_every_reference_of_a_document_or_module_exists():
    site = Site()
    for name in ("index", "host", "participant", "screen", "docs", "operations"):
        for path in re.findall(rf'"/assets/{site.hash}/([^"]+)"', site.document(f"{name}.html").plain.decode()):
            assert path in site.assets, f"{name}.html names {path}"
    for name, asset in site.assets.items():
        if name.startswith("vendor/"):
            continue
        for path in re.findall(r'^(?:import|export) .*?from "(\.[^"]+)"', asset.plain.decode(), re.MULTILINE):
            wanted = (WEB / "assets" / name).parent.joinpath(path).resolve().relative_to(WEB / "assets").as_posix()
            assert wanted in site.assets, f"{name} imports {path}"


def test_the_documents_of_the_interface_are_rendered_whole(new_page):
    docs = VotemillPage(new_page())
    docs.page.goto("/docs")
    openapi = yaml.safe_load((WEB.parent / "openapi.yaml").read_text())
    asyncapi = yaml.safe_load((WEB.parent / "asyncapi.yaml").read_text())
    calls = sum(method != "parameters" for item in openapi["paths"].values() for method in item)
    expect(docs.part("openapi").locator("details")).to_have_count(calls)
    expect(docs.part("asyncapi").locator("details")).to_have_count(len(asyncapi["operations"]))
    for kind, document in (("openapi", openapi), ("asyncapi", asyncapi)):
        expect(docs.part(kind).locator(".schema")).to_have_count(len(document["components"]["schemas"]))
    assert docs.page.evaluate(LEADING_NOWHERE) == []
    expect(docs.part("problem")).to_be_hidden()
