"""What SQL statements are called in metrics: as the constants that hold them."""

from collections.abc import Iterator
from types import ModuleType

from models import (
    audit_store,
    drain_store,
    export_store,
    final_store,
    participant_store,
    poll_store,
    recount,
    retention_store,
    standby,
    vote_parts,
    vote_store,
)
from models.database import PROBE

_STORES = (
    vote_store, participant_store, poll_store, final_store, export_store, audit_store, retention_store, recount,
    standby, drain_store, vote_parts,
)  # fmt: skip
_PLAIN = {"BEGIN": "begin", "COMMIT": "commit", PROBE: "probe"}
_OTHER = "other"
_MOST_REMEMBERED = 1000


class StatementNames:
    """``names[sql]`` is for example ``upsert_votes``; ``other`` for what is put together as it is used."""

    def __init__(self) -> None:
        self._constants = dict(_constants(_STORES))
        self._names = _PLAIN | self._constants

    def __getitem__(self, sql: str) -> str:
        name = self._names.get(sql)
        if name is None:
            name = self._by_beginning(sql)
            if len(self._names) < _MOST_REMEMBERED:
                self._names[sql] = name
        return name

    def _by_beginning(self, sql: str) -> str:
        """A few are completed where they are used."""
        return next((name for constant, name in self._constants.items() if sql.startswith(constant)), _OTHER)


def _constants(stores: tuple[ModuleType, ...]) -> Iterator[tuple[str, str]]:
    for store in stores:
        for name, value in vars(store).items():
            if isinstance(value, str) and name.isupper() and " " in value:
                yield value, name.lower()
