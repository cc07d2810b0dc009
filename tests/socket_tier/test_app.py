"""What a node loads, and what becomes of one that can't begin."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from models.runtime.live_settings import Changes
from models.runtime.settings import load
from socket_tier.app import Node
from socket_tier.refusals import ReadOnly

ROOT = Path(__file__).resolve().parents[2]


def test_a_node_loads_no_database_library() -> None:
    # Given a fresh interpreter, when it imports the node
    code = "import sys, socket_tier.app, socket_tier.__main__; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    # Then neither the database nor the workers came with it
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"peewee", "psycopg2", "playhouse", "workers", "dramatiq"}
    assert "models.database" not in done.stdout.split()
    assert "socketio" in loaded


@pytest.mark.proves("US4.5", "SC-010")
async def test_a_node_takes_over_what_operators_change() -> None:
    # Given a node that knows the time, and an address that has used a limit already
    node = Node(msgspec.structs.replace(load(), limits=msgspec.structs.replace(load().limits, unlimited=False)))
    node.shedding.knows_time = True
    node.limits.connect("192.0.2.1")
    # When an operator changes limits, ticks and what is shed
    changes = {"limits.connections_per_address.burst": 1, "room.tick_s": 0.5, "shed.read_only": True}
    node.live.take_over(Changes(1, changes))
    # Then they hold at once, for the address that is known as for others
    for address in ("192.0.2.1", "192.0.2.2"):
        allowance = node.limits._allowance("connections_per_address", address)
        assert allowance.policy.burst == 1
    assert node.screens.ticker.tick_of("NOBODY") == 0.5
    for refused in (node.shedding.newcomer, node.shedding.vote, node.shedding.change):
        with pytest.raises(ReadOnly):
            refused()
    # And when the changes are taken back, the settings that it started with
    node.live.take_over(Changes(2))
    node.shedding.vote()
    assert node.screens.ticker.tick_of("NOBODY") == load().room.tick_s


def test_a_node_whose_port_is_taken_says_so_and_ends(base_url: str) -> None:
    # Given somebody who listens on its port already
    own = {"VOTEMILL_NODE__NAME": "node-late", "VOTEMILL_NODE__PORT": str(urlsplit(base_url).port)}
    env = os.environ | own | {"PYTHONPATH": str(ROOT)}
    # When a node starts
    done = subprocess.run(
        [sys.executable, "-m", "socket_tier"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Then it doesn't live on without a door
    assert done.returncode != 0
    assert "address already in use" in done.stderr
