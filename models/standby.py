"""How far a streaming standby is."""

from models.database import Database

# Equal positions mean that all that came is replayed, however long ago the last transaction was. But a standby that is
# cut off receives nothing and would be level for ever, so only one with a live receiver counts. A primary has none.
READ_LAG = """
SELECT CASE WHEN EXISTS (SELECT FROM pg_stat_wal_receiver) THEN
  CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END
END::float8
"""

READ_CLUSTER = "SELECT system_identifier FROM pg_control_system()"


def read_lag_s(standby: Database) -> float | None:
    """Seconds by which its data are older than the primary's, to the two servers' clocks; None when nobody can tell.

    It is None for a standby that is cut off from its primary, has replayed nothing yet, or is no standby.
    """
    with standby.transaction():
        lag_s = standby.execute(READ_LAG).fetchone()[0]
    return None if lag_s is None else max(0.0, lag_s)


def read_cluster(db: Database) -> int:
    """What a primary and its standbys have in common and no other server has."""
    with db.transaction():
        return int(db.execute(READ_CLUSTER).fetchone()[0])
