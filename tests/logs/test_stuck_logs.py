"""Votes go on while nothing takes the lines that nodes and workers write, and not one line or vote is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.stack.run_folder import ROOT
from scripts.stack.supervision import wait_until
from scripts.tracing import parse
from tests.socket_tier.extra_node import ExtraNode

TELL_EVERYTHING = {
    "LOG__JSON": "true",
    "LOG__VOTE_SAMPLE": "1",
    "LOG__SINGLES_PER_S": "100000",
    "LOG__FALLBACK_BYTES": "100000000",
    "NODE__DRAIN_S": "0.5",
}


@contextmanager
def pipe_that_nobody_reads(folder: Path) -> Iterator[tuple[Path, int]]:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield pipe, end
    finally:
        os.close(end)


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A file on a disk that has room for few lines."""
    disk = folder / "disk"
    disk.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "tmpfs", disk], check=True, timeout=30)
    try:
        yield disk / "worker.log"
    finally:
        subprocess.run([*as_root, "umount", "--lazy", disk], check=True, timeout=30)


@contextmanager
def votes_worker(log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {f"VOTEMILL_{key}": value for key, value in settings.items()} | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "votes"], env=env, cwd=ROOT, stdout=out, stderr=out
        )
    try:
        # Votes go to the vote worker that was started last
        wait_until(lambda: "worker_started" in log.read_text(), 60, "the worker has not started", log)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def events(*texts: str) -> list[dict[str, Any]]:
    """Of whole lines: where stdout got stuck in the middle of one, it is in the file again."""
    return [line.fields for text in texts for raw in text.splitlines() if (line := parse(raw, "")) is not None]


def vote(url: str, run_dir: Path) -> dict[str, Any]:
    """scripts/load, which fails when an acked vote is missing, doubled or wrong."""
    options = ["--url", url, "--voters", "20", "--rate", "500", "--seconds", "2", "--run-dir", run_dir, "--json"]
    done = subprocess.run(
        [ROOT / "scripts" / "load", *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.proves("FR-020", "FR-015")
def test_votes_run_on_while_a_pipe_is_blocked_and_a_disk_full(run_dir: Path, tmp_path: Path) -> None:
    settings = TELL_EVERYTHING | {"LOG__FALLBACK_FOLDER": str(tmp_path / "diverted")}
    with pipe_that_nobody_reads(tmp_path) as (pipe, end), full_disk(tmp_path) as file:
        with votes_worker(file, WORKER__NAME="full", **settings):
            # Given a node that writes into the pipe and a worker on the disk
            node = ExtraNode("blocked", pipe, **settings)
            try:
                # When many vote, and each vote is logged at each step
                report = vote(node.url, run_dir)
            finally:
                began = time.monotonic()
                node.stop()
        # Then none is lost, and the node ends as fast as ever
        assert time.monotonic() - began < 60
        in_pipe, on_disk = os.read(end, 1 << 20).decode(), file.read_text()
    in_files = {file.name: file.read_text() for file in (tmp_path / "diverted").iterdir()}
    # And every line is in the pipe or in the file that took over
    of_node = events(in_pipe, in_files["blocked.log"])
    votes = [line for line in of_node if line["event"] == "vote_accepted"]
    assert report["acked"] == len(votes) == len({(line["batch_id"], line["index"]) for line in votes}) > 100
    assert [line["reason"] for line in of_node if line["event"] == "stdout_stuck"] == ["blocked"]
    assert of_node[-1]["event"] == "node_stopped"
    # And of the worker, whose child did the work
    of_worker = events(on_disk, in_files["full-votes.log"])
    assert [line["reason"] for line in of_worker if line["event"] == "stdout_stuck"] == ["ENOSPC"]
    assert len([line for line in of_worker if line["event"] == "command_handled"]) > 10
    assert "worker_stopped" in {line["event"] for line in of_worker}
