"""What a node loads, and what becomes of one that can't begin."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

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
