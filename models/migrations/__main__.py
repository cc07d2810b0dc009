"""``python -m models.migrations up|down|status [--to NUMBER]``"""

import argparse
import sys

from peewee import PeeweeException
from playhouse.migrations import MigrationError

from models.database import DatabaseUnavailable
from models.migrations.runner import migrate_down, migrate_up, migration_status
from models.runtime.settings import SECTIONS, load_or_exit


def main() -> int:
    """0 when done, 1 when a migration failed (nothing of it is kept), 75 (EX_TEMPFAIL) when the database is away."""
    parser = argparse.ArgumentParser(prog="python -m models.migrations", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--to", type=int, help="up: the last number to apply; down: the number to go back to")
    arguments = parser.parse_args()
    settings = load_or_exit(unused=SECTIONS.keys() - {"database", "secrets"}).database
    try:
        if arguments.command == "status":
            for migration in migration_status(settings):
                print(migration.name, migration.applied or "pending")
            return 0
        migrate = migrate_up if arguments.command == "up" else migrate_down
        for name in migrate(settings, arguments.to):
            print(arguments.command, name)
        return 0
    except DatabaseUnavailable as error:
        print(f"migrations: {error}", file=sys.stderr)
        return 75
    except (MigrationError, PeeweeException) as error:
        print(f"migrations: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
