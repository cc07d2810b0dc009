"""Calls of the service that only the admin token may make."""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from typing import Any


def add_url(parser: argparse.ArgumentParser) -> None:
    """The option that says which service is meant."""
    parser.add_argument("--url", default=os.environ.get("BASE_URL", ""), help="the service (default: the one in .run)")


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer to a GET, or to a PUT of ``body``.

    :raises OSError, ValueError: refused, or no answer; ``reason`` says why
    """
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode() if body else None,
        method="PUT" if body else "GET",
        headers={
            "Authorization": f"Bearer {os.environ.get('VOTEMILL_SECURITY__ADMIN_TOKEN', '')}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # nosec B310: the operator's own address
        answer: dict[str, Any] = json.load(response)
    return answer


def reason(error: Exception) -> str:
    """The service's own words, where it has said some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"])
        except (ValueError, KeyError):
            pass  # not from a node; the status says what there is to say
    return str(error)
