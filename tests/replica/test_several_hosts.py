"""An address that names several servers leads to the one that takes writes, whatever the others are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from models.database import Database, DatabaseUnavailable, open_database
from models.runtime.settings import load
from scripts.stack import ports
from scripts.stack.data_folders import remove_data
from scripts.stack.run_folder import RunFolder
from scripts.stack.supervision import wait_until
from tests.own_stack import on_own_servers
from tests.replica.moving import Server

pytestmark = on_own_servers

SOON_S = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    folder = RunFolder(Path(tmp_path_factory.mktemp("several-hosts")))
    folder.create()
    yield folder
    remove_data(folder)


@pytest.fixture(scope="module")
def servers(folder: RunFolder) -> Iterator[tuple[str, int]]:
    """All hosts of an address, and the primary's port: before it a standby, a primary that was set aside, one that is
    hung, and a port where nobody is."""
    standby, aside, hung, primary = servers = [Server(folder, f"postgres-{number}") for number in range(1, 5)]
    try:
        for server in (aside, hung, primary):
            server.make()
        standby.follow(primary)
        aside.configure("default_transaction_read_only", "on")
        hung.freeze()
        all_ports = (standby.port, aside.port, hung.port, ports.any_free(), primary.port)
        yield ",".join(f"127.0.0.1:{port}" for port in all_ports), primary.port
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("wanted", ["", "?target_session_attrs=read-write", "?target_session_attrs=primary"])
def test_the_one_that_takes_writes_is_found_and_remembered(servers: tuple[str, int], wanted: str) -> None:
    hosts, primary = servers
    url = f"postgresql://votemill@{hosts}/votemill{wanted}"
    database = open_database(msgspec.structs.replace(load().database, url=url, connect_timeout_s=2), "several-hosts")
    # The first login ends with the silence of the one that is hung; the next begins behind it
    wait_until(lambda: _answers(database), SOON_S, "the primary is not found")
    assert _port_of(database) == primary
    # And new connections lead there, too
    database.renew()
    wait_until(lambda: _answers(database), SOON_S, "the primary is not found again")
    assert _port_of(database) == primary
    database.close()


def _answers(database: Database) -> bool:
    try:
        return database.probe() > 0
    except DatabaseUnavailable:
        return False


def _port_of(database: Database) -> int:
    with database.transaction():
        return int(database.execute("SELECT inet_server_port()").fetchone()[0])
