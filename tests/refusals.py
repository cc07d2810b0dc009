"""``python -m tests.refusals``: what the stack of the tests has refused our processes, exit code 1 if there was any.

Many rounds of a worker try again without a word, so no test might notice that models/accounts.py lacks a right.
"""

import os
import sys
from pathlib import Path

import redis

from models import accounts


def main() -> int:
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    try:
        refused = [str(entry) for entry in client.acl_log() if entry["username"] in accounts.RULES]
    except redis.ConnectionError as error:
        refused = [f"Redis can't tell: {error}"]
    finally:
        client.close()
    log = Path(os.environ["RUN_DIR"], "log", "postgres.log").read_text()
    refused += [line for line in log.splitlines() if "permission denied" in line]
    for line in refused:
        print(f"✗ refused: {line}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
