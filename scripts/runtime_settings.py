"""scripts/settings: shows and changes the settings of all nodes and workers while they run, by way of any node.

VALUE is JSON or, where it is none, a text: ``set limits.votes_per_session=20 log.level=DEBUG``. All changes of one call
are made or, when one isn't valid, none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

PATH = "/api/config/settings"


def main() -> int:
    """0; 1 when the service refused or didn't answer, with its reason."""
    parser = argparse.ArgumentParser(prog="scripts/settings", description=__doc__)
    parser.add_argument("--url", default=os.environ.get("BASE_URL", ""), help="the service (default: the one in .run)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every setting that can be changed; those that are, with a mark")
    commands.add_parser("set", help="change some").add_argument("changes", nargs="+", metavar="KEY=VALUE")
    commands.add_parser("reset", help="take changes back").add_argument("keys", nargs="+", metavar="KEY")
    options = parser.parse_args()
    if options.command == "set":
        changes = dict(_pair(change) for change in options.changes)
    else:
        changes = dict.fromkeys(options.keys) if options.command == "reset" else {}
    try:
        answer = _call(options.url, changes)
    except (OSError, ValueError) as error:
        print(f"✗ {_reason(error)}", file=sys.stderr)
        return 1
    for key, value in answer["settings"].items():
        if options.command == "list" or key in changes:
            print(f"{'*' if key in answer['changed'] else ' '} {key} = {json.dumps(value)}")
    return 0


def _pair(change: str) -> tuple[str, Any]:
    key, _, text = change.partition("=")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def _call(url: str, changes: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url + PATH,
        data=json.dumps(changes).encode() if changes else None,
        method="PUT" if changes else "GET",
        headers={
            "Authorization": f"Bearer {os.environ.get('VOTEMILL_SECURITY__ADMIN_TOKEN', '')}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # nosec B310: the operator's own address
        answer: dict[str, Any] = json.load(response)
    return answer


def _reason(error: Exception) -> str:
    """The service's own words, where it has said some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"])
        except (ValueError, KeyError):
            pass  # not from a node; the status says what there is to say
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
