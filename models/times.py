"""Microseconds since the epoch, as on the wire, and the timestamps of the tables. Exact both ways."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def at(us: int) -> datetime:
    """:raises OverflowError: beyond the year 9999"""
    return EPOCH + timedelta(microseconds=us)


def as_us(moment: datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND
