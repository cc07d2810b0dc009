"""The log shipper of compose and Nomad, run as it is there, brings a node's lines to a central receiver."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.stack.ports import LOOPBACK, any_free
from scripts.stack.run_folder import ROOT
from scripts.tracing import parse
from tests.security.conftest import guarded_node
from tests.socket_tier.rest import Rest
from tests.socket_tier.waiting import eventually

CONFIGURATION = ROOT / "docker" / "rsyslog" / "rsyslog.conf"
RECEIVER = """
module(load="imtcp")
input(type="imtcp" address="{host}" port="{port}")
template(name="as-it-came" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{file}" template="as-it-came")
"""


def program() -> str:
    found = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin")
    assert found, "rsyslog is not installed; scripts/test installs it"
    return found


@contextmanager
def rsyslogd(configuration: Path, **variables: str) -> Iterator[None]:
    command = [program(), "-n", "-f", configuration, "-i", "NONE"]
    process = subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
        assert process.poll() is None, "rsyslogd has ended"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def shipping(tmp_path: Path) -> dict[str, str]:
    """What the shipper is told: files as Nomad names them, and a receiver that is not there yet."""
    (tmp_path / "spool").mkdir()
    return {
        "LOG_FILES": f"{tmp_path}/alloc/*/alloc/logs/{{node,votes,host}}.stdout.*",
        "LOG_RECEIVER": LOOPBACK,
        "LOG_PORT": str(any_free()),
        "LOG_DRIVER": "ptcp",
        "LOG_TLS": "0",
        "LOG_AUTH": "anon",
        "LOG_CA": "/etc/ssl/certs/ca-certificates.crt",
        "LOG_SPOOL": str(tmp_path / "spool"),
    }


@contextmanager
def receiver(folder: Path, port: str) -> Iterator[Callable[[], list[str]]]:
    """A central rsyslog; gives a function that reads what it has got: each line once or more often."""
    got, configuration = folder / "got", folder / "receiver.conf"
    configuration.write_text(RECEIVER.format(host=LOOPBACK, port=port, file=got))
    with rsyslogd(configuration):
        yield lambda: got.read_text().splitlines() if got.exists() else []


@pytest.mark.proves("FR-020")
def test_its_configuration_is_valid(shipping: dict[str, str]) -> None:
    for tls in ({}, {"LOG_DRIVER": "gtls", "LOG_TLS": "1", "LOG_AUTH": "x509/certvalid"}):
        done = subprocess.run(
            [program(), "-N1", "-f", CONFIGURATION],
            env=os.environ | shipping | tls,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr


@pytest.mark.proves("FR-020")
async def test_a_nodes_lines_reach_a_receiver_that_was_away_when_they_were_written(
    run_dir: Path, tmp_path: Path, shipping: dict[str, str], rest: Rest
) -> None:
    # Given a node whose stdout is where Nomad has it, a shipper, and no receiver
    folder = tmp_path / "alloc" / "0a1b" / "alloc" / "logs"
    folder.mkdir(parents=True)
    with guarded_node(run_dir, "shipped") as node, rsyslogd(CONFIGURATION, **shipping):
        (folder / "node.stdout.0").symlink_to(node.log)
        answer = await rest.get("/api/polls/ABCDEF", url=node.url)
        trace_id = answer.headers["x-correlation-id"]
        written = await eventually(
            lambda: next((line for line in node.log.read_text().splitlines() if trace_id in line), None), "the line"
        )
        # When one comes up
        with receiver(tmp_path, shipping["LOG_PORT"]) as got:
            # Then it gets the line as it was written
            (found,) = await eventually(
                lambda: {line for line in got() if trace_id in line}, "the line at the receiver"
            )
            assert found.endswith(written)
            # And scripts/trace can read what it keeps
            line = parse(found, "")
            assert line is not None and (line.who, line.event) == (node.name, "request_handled")


@pytest.mark.proves("FR-020")
async def test_what_docker_has_wrapped_is_unwrapped_and_other_peoples_logs_stay_here(
    tmp_path: Path, shipping: dict[str, str]
) -> None:
    folder = tmp_path / "containers" / "0a1b"
    folder.mkdir(parents=True)
    shipping["LOG_FILES"] = f"{tmp_path}/containers/*/*-json.log"
    ours = '{"timestamp":"2026-01-01T00:00:00+00:00","event":"node_ready","note":"\\u00e9 \\"q\\""}'
    wrapped = ours.replace("\\", "\\\\").replace('"', '\\"')
    with receiver(tmp_path, shipping["LOG_PORT"]) as got, rsyslogd(CONFIGURATION, **shipping):
        (folder / "x-json.log").write_text(
            f'{{"log":"other {wrapped}\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}}\n'
            f'{{"log":"{wrapped}\\n","stream":"stdout","attrs":{{"tag":"votemill/node-1"}},"time":"2026-01-01T00:00:00Z"}}\n'
        )
        (found,) = set(await eventually(got, "the line"))
    assert found.endswith(ours) and parse(found, "") is not None
