"""Where this machine's Chromium is."""

import shutil

# Without a window the first costs half of what the others do.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """:raises SystemExit: there is none"""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise SystemExit("✗ Chromium is needed (Debian package: chromium-headless-shell)")
    return found
