"""What a node loads."""

import subprocess
import sys
from pathlib import Path

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
