"""scripts/broker-policies: applies the queue limits to the broker of a run folder."""

from __future__ import annotations

import argparse
import shutil
import sys

from scripts import server_accounts
from scripts.stack.run_folder import RunFolder
from scripts.stack.services import rabbitmq


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/broker-policies", description=__doc__)
    parser.add_argument("--run-dir", default=".run", help="the stack's run folder (default %(default)s)")
    folder = RunFolder(parser.parse_args().run_dir)
    data = folder.data / rabbitmq.NAME
    if not data.exists():
        print(f"✗ there is no broker in {folder.path}")
        return 1
    # The broker's account may not be able to read the checkout.
    copy = data.resolve() / "policies.json"
    shutil.copyfile(server_accounts.POLICIES, copy)
    copy.chmod(0o644)
    return rabbitmq.run_ctl(folder, ["import_definitions", str(copy)])


if __name__ == "__main__":
    sys.exit(main())
