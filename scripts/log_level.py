"""scripts/loglevel: shows and changes the log levels of all nodes and workers while they run, by way of any node."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from scripts.admin_calls import add_url, call, reason

PATH = "/api/config/log-level"


def main() -> int:
    """0; 1 when the service refused or didn't answer, with its reason."""
    parser = argparse.ArgumentParser(prog="scripts/loglevel", description=__doc__)
    add_url(parser)
    parser.add_argument("level", nargs="?", help="DEBUG, INFO, WARNING or ERROR; reset takes a level back")
    parser.add_argument("--logger", default="root", help="for this logger and those below it, such as workers.results")
    parser.add_argument("--for", dest="seconds", type=int, help="seconds after which it goes back by itself")
    options = parser.parse_args()
    body: dict[str, Any] | None = None
    if options.level is not None:
        level = None if options.level == "reset" else options.level.upper()
        body = {"level": level, "logger": options.logger}
        body |= {"seconds": options.seconds} if options.seconds is not None else {}
    try:
        answer = call(options.url + PATH, body)
    except (OSError, ValueError) as error:
        print(f"✗ {reason(error)}", file=sys.stderr)
        return 1
    for logger, level in answer["levels"].items():
        until = answer["until"].get(logger)
        print(f"{logger} {level}" + (f" until {until}" if until else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
