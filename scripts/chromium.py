"""Where this machine's Chromium is."""

import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """:raises SystemExit: there is none"""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise SystemExit("✗ Chromium is needed (Debian package: chromium)")
    return found
