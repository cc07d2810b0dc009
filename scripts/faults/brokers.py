"""A cluster of RabbitMQ nodes on this machine, each in a run folder and under a supervisor of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.faults.stack import broker_answers
from scripts.faults.victim import BACK_WITHIN_S, Victim
from scripts.stack import packages
from scripts.stack.data_folders import make_data_folder, remove_data
from scripts.stack.plan import Options, Plan, account, make_plan
from scripts.stack.progress import step
from scripts.stack.run_folder import RunFolder, write_private
from scripts.stack.services import rabbitmq
from scripts.stack.stopping import stop_everything
from scripts.stack.supervision import Supervisor, wait_until

MEMBERS = 3
_SHARED_SECRETS = ("broker-password", "erlang-cookie")


class Broker:
    """One member of the cluster."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.folder.path.name
        self.url = plan.urls["broker"]
        self.victim = Victim(plan.folder, rabbitmq.NAME, lambda: broker_answers(self.url))

    def leader_of(self, queue: str) -> str | None:
        """The node name of a quorum queue's leader as this member knows it; None when it can't tell."""
        answer = self.plan.folder.log("leader")
        with answer.open("w") as out:
            code = rabbitmq.run_ctl(self.plan.folder, ["--silent", "list_queues", "name", "leader"], out)
        rows = [line.split("\t") for line in answer.read_text().splitlines()]
        return next((row[1] for row in rows if code == 0 and len(row) == 2 and row[0] == queue), None)


@contextmanager
def running(run_dir: Path) -> Iterator[list[Broker]]:
    """A new, empty cluster; it ends, and its data goes, with the context.

    :raises StepFailed: a member does not come up
    """
    packages.install_missing(["rabbitmq-server"], _made(RunFolder(run_dir)).log("packages"))
    folders = [_made(RunFolder(run_dir / f"broker-{number}")) for number in range(1, MEMBERS + 1)]
    try:
        for folder in folders:
            stop_everything(folder)
            remove_data(folder)
            _made(folder)
        yield _start(folders)
    finally:
        for folder in reversed(folders):
            stop_everything(folder)
            remove_data(folder)


def _start(folders: list[RunFolder]) -> list[Broker]:
    for folder in folders[1:]:
        for name in _SHARED_SECRETS:
            write_private(folder.secrets / name, folders[0].secret(name))
    brokers = [Broker(make_plan(Options(nodes=0), folder)) for folder in folders]
    members = [broker.plan.broker_node for broker in brokers]
    for broker in brokers:
        _prepare(broker.plan, members)
        Supervisor(broker.plan.folder).start([rabbitmq.program(broker.plan)])
    # The first makes the cluster, the others find it and join.
    for group in (brokers[:1], brokers[1:]):
        with step(f"RabbitMQ {', '.join(broker.name for broker in group)}"):
            for broker in group:
                broker.victim.begin_to_return()
            for broker in group:
                wait_until(broker.victim.answers, BACK_WITHIN_S, "no answer", broker.plan.folder.log(rabbitmq.NAME))
    return brokers


def _prepare(plan: Plan, members: list[str]) -> None:
    """What a single broker gets, the names of all members, and the cookie by which they trust each other."""
    rabbitmq.prepare(plan)
    data = make_data_folder(plan.folder, rabbitmq.NAME, account("rabbitmq"))
    lines = ["cluster_formation.peer_discovery_backend = classic_config"]
    lines += [f"cluster_formation.classic_config.nodes.{number} = {name}" for number, name in enumerate(members, 1)]
    configuration, cookie = data / "rabbitmq.conf", data / ".erlang.cookie"
    with configuration.open("a") as file:
        file.write("\n".join(lines) + "\n")
    cookie.write_text(plan.folder.secret("erlang-cookie"))
    shutil.copymode(configuration, cookie)
    os.chown(cookie, data.stat().st_uid, data.stat().st_gid)


def _made(folder: RunFolder) -> RunFolder:
    folder.create()
    return folder
