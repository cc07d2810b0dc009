"""The steps from a run folder to a stack that is ready for browsers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType

import pika
import pika.exceptions

from scripts.stack import packages, tiers
from scripts.stack.plan import SERVERS, Options, Plan, existing_services, make_plan
from scripts.stack.program import Program
from scripts.stack.progress import StepFailed, say, step
from scripts.stack.run_folder import ROOT, RunFolder, write_env
from scripts.stack.services import (
    alertmanager,
    carbon,
    graphite,
    haproxy,
    links,
    pgbackrest,
    postgres,
    rabbitmq,
    redis,
    standby,
    statsd,
)
from scripts.stack.stopping import stop_everything
from scripts.stack.supervision import Supervisor, wait_until

WEB = ROOT / "socket_tier" / "web"
SERVER_MODULES: dict[str, ModuleType] = {
    "postgres": postgres,
    "rabbitmq": rabbitmq,
    "redis": redis,
    "standby": standby,
    "links": links,
    "carbon": carbon,
    "graphite": graphite,
    "statsd": statsd,
    "alertmanager": alertmanager,
}
DEBIAN_PACKAGES = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server", "redis": "redis-server"}
READY_WITHIN_S = 60
HOPELESS_AFTER_S = 8  # A program that still dies at once after so long is not merely waiting for another one.


def bring_up(options: Options, folder: RunFolder) -> Plan:
    """Run every step. On any failure or interrupt, what was started is stopped before the error goes on.

    :raises StepFailed: with the one line that says what is wrong and where its log lies
    """
    began = time.monotonic()
    folder.create()
    if stop_everything(folder):
        say("✓ stopped what an earlier run had left behind")
    try:
        plan = _provision(options, folder)
    except BaseException as problem:
        stop_everything(folder)
        if isinstance(problem, StepFailed) or not isinstance(problem, Exception):
            raise
        text = " ".join(str(problem).split())
        raise StepFailed(f"{type(problem).__name__}: {text}", folder.logs) from problem
    if options.unlimited:
        say("! Every rate limit is lifted (--unlimited): for load tests only")
    say(f"Votemill is ready after {time.monotonic() - began:.1f} s: open {plan.base_url}")
    if options.metrics:
        token = os.path.relpath(folder.secrets / "admin-token")
        say(f"Graphs: {plan.base_url}/operations, with the token in {token}; Graphite: {plan.graphite_url}/render")
        say(f"Alerts: {plan.alertmanager_url}")
    return plan


def _provision(options: Options, folder: RunFolder) -> Plan:
    _install_packages(options, folder)
    plan = make_plan(options, folder)
    servers = [SERVER_MODULES[name] for name in plan.servers]
    ours = tiers.programs(plan)
    watching = [tiers.alerter(plan)] if options.metrics else []
    balancer = [haproxy.program(plan)] if plan.balanced else []
    for stale in folder.processes.glob("*.json"):
        stale.unlink()
    supervisor = Supervisor(folder)
    supervisor.start([server.program(plan) for server in servers] + watching + ours + balancer)
    _start_servers(plan, supervisor)
    _start_tiers(plan, ours, supervisor)
    write_env(folder.process_env_file, tiers.settings_env(plan))
    write_env(folder.env_file, tiers.public_env(plan))
    folder.ready_mark.write_text(plan.base_url)
    return plan


def _install_packages(options: Options, folder: RunFolder) -> None:
    named = existing_services()
    wanted = [DEBIAN_PACKAGES[server] for server, section in SERVERS.items() if section not in named]
    wanted += ["pgbackrest"] if options.backup else []
    wanted += ["graphite-carbon", "graphite-web", "gunicorn", "prometheus-alertmanager"] if options.metrics else []
    wanted += ["haproxy"] if options.nodes > 1 else []
    wanted += ["nodejs", "npm"]
    packages.install_missing(wanted + options.also_install, folder.log("packages"))


def _start_servers(plan: Plan, supervisor: Supervisor) -> None:
    """Start the servers side by side; the broker takes longest, so all that doesn't need it goes on meanwhile."""

    def database() -> None:
        if "postgres" in plan.private:
            _start_server("postgres", plan, supervisor)
        if "postgres" in plan.private and plan.options.accounts:
            postgres.let_roles_in(plan)
        if plan.options.backup:
            with step("archive for backups"):
                postgres.let_backups_in(plan)
                pgbackrest.of_stack(plan.folder).run("stanza-create")
        # Before the migrations: should the standby be synchronous, nothing is committed without it.
        if plan.options.replica:
            _start_server("standby", plan, supervisor)
        _migrate(plan)

    def npm_packages() -> None:
        install_npm("browser library", WEB, plan.folder)

    def metrics() -> None:
        install_npm("StatsD", carbon.RULES, plan.folder)
        for name in plan.metric_servers:
            _start_server(name, plan, supervisor)

    with ThreadPoolExecutor() as together:
        lanes = [together.submit(_start_server, name, plan, supervisor) for name in plan.private if name != "postgres"]
        lanes += [together.submit(database), together.submit(npm_packages)]
        lanes += [together.submit(_start_server, "links", plan, supervisor)] if plan.options.links else []
        lanes += [together.submit(metrics)] if plan.options.metrics else []
        try:
            done, _ = wait(lanes, return_when=FIRST_EXCEPTION)
            for lane in done:
                lane.result()
        except BaseException:
            supervisor.stop_programs(plan.servers)  # Ends the waiting of the other lanes.
            raise


def _start_server(name: str, plan: Plan, supervisor: Supervisor) -> None:
    server = SERVER_MODULES[name]
    with step(f"{name} on port {plan.ports[name]}"):
        server.prepare(plan)
        supervisor.start_program(name)
        _wait_ready(name, lambda: server.is_ready(plan), plan, supervisor)


def _migrate(plan: Plan) -> None:
    if not (ROOT / "models" / "migrations" / "__main__.py").exists():
        return
    log = plan.folder.log("migrate")
    with step("migrations"):
        command = [sys.executable, "-m", "models.migrations", "up"]
        _run(command, ROOT, log, "the migrations failed", env=tiers.process_env(plan))


def install_npm(what: str, where: Path, folder: RunFolder) -> None:
    """Fetch what package-lock.json names, unless that very lock file has been installed already."""
    lock, installed = where / "package-lock.json", where / "node_modules" / ".votemill-lock.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    with step(f"{what} from npm", announce=True):
        command = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run(command, where, folder.log(f"npm-{where.name}"), f"npm could not install {what}")
        shutil.copyfile(lock, installed)


def _start_tiers(plan: Plan, ours: list[Program], supervisor: Supervisor) -> None:
    """Start nodes and workers together and wait for each; the balancer comes last, so that it finds the nodes up."""
    for program in ours:
        supervisor.start_program(program.name)
    for program in ours:
        if program.group == "node":
            with step(f"{program.name} on port {plan.node_ports[program.name]}"):
                _wait_ready(program.name, lambda: tiers.node_is_ready(plan, program.name), plan, supervisor)  # noqa: B023
    for queue, count in (("votes", plan.options.workers), ("host", plan.options.host_workers)):
        if count:
            name = "worker-1" if queue == "votes" else "host-worker-1"
            with step(f"{count} worker{'s' * (count > 1)} for {queue}"):
                _wait_ready(name, lambda: consumers(plan.whole_urls["broker"], queue) >= count, plan, supervisor)  # noqa: B023
    if plan.options.nodes and plan.options.workers and plan.options.host_workers:
        with step("nodes and workers know each other"):
            for program in ours:
                if program.group == "node":
                    _wait_ready(program.name, lambda: tiers.node_is_healthy(plan, program.name), plan, supervisor)  # noqa: B023
    if plan.options.metrics:
        # Last of ours, so that it finds everybody there.
        with step("alerter"):
            supervisor.start_program("alerter")
            _wait_ready("alerter", lambda: supervisor.states()["alerter"] == "RUNNING", plan, supervisor)
    if plan.balanced:
        with step(f"haproxy on port {plan.options.port}"):
            haproxy.prepare(plan)
            supervisor.start_program(haproxy.NAME)
            _wait_ready(haproxy.NAME, lambda: haproxy.is_ready(plan), plan, supervisor)


def consumers(urls: str, queue: str) -> int:
    """How many consumers a queue has at the first of these brokers that answers; 0 when nobody has declared it yet."""
    parameters = [pika.URLParameters(url) for url in urls.split(",")]
    for each in parameters:
        each.socket_timeout = each.blocked_connection_timeout = 3
    try:
        connection = pika.BlockingConnection(parameters)
    except (pika.exceptions.AMQPError, OSError):
        return 0
    try:
        return int(connection.channel().queue_declare(queue, passive=True).method.consumer_count)
    except pika.exceptions.AMQPError:
        return 0
    finally:
        connection.close()


def _wait_ready(name: str, ready: Callable[[], bool], plan: Plan, supervisor: Supervisor) -> None:
    began = time.monotonic()

    def hopeless() -> bool:
        state = supervisor.states()[name]
        dying = state in ("BACKOFF", "FATAL") and time.monotonic() - began > HOPELESS_AFTER_S
        return dying or state in ("STOPPING", "STOPPED")

    wait_until(ready, READY_WITHIN_S, f"{name} did not become ready", plan.folder.log(name), give_up=hopeless)


def _run(command: list[str], cwd: Path, log: Path, problem: str, env: dict[str, str] | None = None) -> None:
    with log.open("w") as out:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        )
    if done.returncode != 0:
        raise StepFailed(problem, log)
