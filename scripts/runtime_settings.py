"""scripts/settings: shows and changes the settings of all nodes and workers while they run, by way of any node.

VALUE is JSON or, where it is none, a text: ``set limits.votes_per_session=20 log.level=DEBUG``. All changes of one call
are made or, when one isn't valid, none.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from scripts.admin_calls import add_url, call, reason

PATH = "/api/config/settings"


def main() -> int:
    """0; 1 when the service refused or didn't answer, with its reason."""
    parser = argparse.ArgumentParser(prog="scripts/settings", description=__doc__)
    add_url(parser)
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
        answer = call(options.url + PATH, changes)
    except (OSError, ValueError) as error:
        print(f"✗ {reason(error)}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
