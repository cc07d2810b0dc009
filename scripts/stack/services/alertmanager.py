"""The private Alertmanager: tells people of alerts, as the settings alerts.* say; without any it only shows them."""

from __future__ import annotations

import urllib.request

from models.runtime.settings import SettingsError, load
from scripts.alerts import routing
from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.progress import StepFailed

NAME = "alertmanager"
ACCOUNT = "prometheus"


def program(plan: Plan) -> Program:
    """Alone: it listens for no others of a cluster."""
    data = make_data_folder(plan.folder, NAME, account(ACCOUNT))
    argv = ["prometheus-alertmanager", f"--config.file={data}/alertmanager.yml", f"--storage.path={data}"]
    argv += [f"--web.listen-address={ports.LOOPBACK}:{plan.ports[NAME]}", "--cluster.listen-address="]
    return Program(NAME, "server", argv, server_env(data), cwd=data, user=account(ACCOUNT))


def prepare(plan: Plan) -> None:
    """Write its configuration where its account can read it.

    :raises StepFailed: the settings can't be used
    """
    data = make_data_folder(plan.folder, NAME, account(ACCOUNT))
    try:
        settings = load(unused={"secrets"}).alerts
    except SettingsError as error:
        raise StepFailed(f"settings: {error.problems[0]}") from None
    write_for_server(data / "alertmanager.yml", routing.configuration(settings))


def is_ready(plan: Plan) -> bool:
    """Whether it says so."""
    try:
        url = f"{plan.alertmanager_url}/-/ready"
        with urllib.request.urlopen(url, timeout=2) as answer:  # always http  # nosec B310
            return bool(answer.status == 200)
    except OSError:
        return False
