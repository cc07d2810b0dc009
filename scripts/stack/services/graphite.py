"""The private graphite-web: draws what carbon keeps, for the operators' page and for dashboards."""

from __future__ import annotations

import urllib.request

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program
from scripts.stack.services import carbon

NAME = "graphite"


def program(plan: Plan) -> Program:
    data = make_data_folder(plan.folder, NAME, account(carbon.ACCOUNT))
    argv = ["gunicorn", "--bind", f"{ports.LOOPBACK}:{plan.ports[NAME]}", "--threads", "4", "graphite.wsgi"]
    env = server_env(data) | {
        "PYTHONPATH": str(data),
        "GRAPHITE_SETTINGS_MODULE": "graphite_settings",
        "GRAPHITE_STORAGE_DIR": str(carbon.data_folder(plan)),
        "CARBONLINK": f"{ports.LOOPBACK}:{plan.ports['carbon-query']}:a",
    }
    return Program(NAME, "server", argv, env, cwd=data, user=account(carbon.ACCOUNT))


def prepare(plan: Plan) -> None:
    """Write its settings where its account can read them."""
    data = make_data_folder(plan.folder, NAME, account(carbon.ACCOUNT))
    for name in ("graphite_settings.py", "graphite_urls.py"):
        write_for_server(data / name, (carbon.RULES / name).read_text())


def is_ready(plan: Plan) -> bool:
    """Whether it answers a query."""
    try:
        url = f"{plan.graphite_url}/metrics/find?query=*"
        with urllib.request.urlopen(url, timeout=2) as answer:  # always http  # nosec B310
            return bool(answer.status == 200)
    except OSError:
        return False
