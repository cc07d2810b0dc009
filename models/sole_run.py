"""Lets one process at a time, of all that share a database, do a job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from models.database import open_database
from models.runtime.settings import DatabaseSettings

# A session's lock, since the job takes many transactions. It ends with the process or its connection, so nobody has to
# clean up after one that was killed.
_LOCK = "SELECT pg_try_advisory_lock(%s)"
_UNLOCK = "SELECT pg_advisory_unlock(%s)"


@contextmanager
def sole_run(settings: DatabaseSettings, key: int, name: str) -> Iterator[Callable[[], None] | None]:
    """None while another process holds ``key``. Otherwise a check that this one still does: to be called before
    anything that must not be done by two.

    :raises DatabaseUnavailable: here, or by the check when the connection is gone and the lock with it, or its server
        takes writes no more: then others lock at another one
    """
    database = open_database(msgspec.structs.replace(settings, pool_size=1), name)
    try:
        with database.session():
            if not database.execute(_LOCK, (key,)).fetchone()[0]:
                yield None
                return
            yield database.demand_writable
            database.execute(_UNLOCK, (key,))
    finally:
        database.close()  # with the connection a lock goes that is still held
