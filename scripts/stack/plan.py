"""What one stack is made of: the caller's options, the addresses that follow from them, and who runs what."""

from __future__ import annotations

import os
import pwd
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from models import accounts
from scripts.stack import certificates, ports
from scripts.stack.progress import StepFailed
from scripts.stack.run_folder import ROOT, RunFolder

METRIC_SERVERS = ("carbon", "graphite", "statsd", "alertmanager")
SERVERS = {"postgres": "database", "rabbitmq": "broker", "redis": "redis"}  # the server and its section in the settings


@dataclass(frozen=True)
class Options:
    """What the caller asked for on the command line."""

    port: int = 4000
    nodes: int = 1
    workers: int = 1
    host_workers: int = 1
    run_dir: str = ".run"
    detach: bool = False
    unlimited: bool = False
    replica: bool = False
    synchronous: bool = False
    backup: bool = False
    metrics: bool = False
    tls: bool = False
    accounts: bool = False
    links: bool = False
    also_install: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first process starts."""

    options: Options
    folder: RunFolder
    environment: str
    urls: dict[str, str]  # by settings section: database, broker, redis; and the standby's as replica
    private: list[str]  # the servers that are ours to start, beside a standby
    ports: dict[str, int]
    broker_node: str

    @property
    def base_url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.options.port}"

    @property
    def servers(self) -> list[str]:
        """Every server that is ours to start."""
        return self.private + ["standby"] * self.options.replica + ["links"] * self.options.links + self.metric_servers

    @property
    def metric_servers(self) -> list[str]:
        return list(METRIC_SERVERS) if self.options.metrics else []

    @property
    def graphite_url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.ports['graphite']}"

    @property
    def alertmanager_url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.ports['alertmanager']}"

    @property
    def balanced(self) -> bool:
        return self.options.nodes > 1

    @property
    def node_names(self) -> list[str]:
        return [f"node-{number}" for number in range(1, self.options.nodes + 1)]

    @property
    def node_ports(self) -> dict[str, int]:
        if not self.balanced:
            return dict.fromkeys(self.node_names, self.options.port)
        return {name: self.ports[name] for name in self.node_names}

    @property
    def node_urls(self) -> list[str]:
        return [f"http://{ports.LOOPBACK}:{port}" for port in self.node_ports.values()]

    @property
    def whole_urls(self) -> dict[str, str]:
        """The addresses for tools that don't know our settings."""
        if not self.options.tls:
            return self.urls
        private = {SERVERS[name] for name in self.private} | {"replica"}
        return {
            name: certificates.whole_url(url, self.folder) if name in private else url
            for name, url in self.urls.items()
        }

    def urls_of(self, account: str, process: str) -> dict[str, str]:
        """The addresses for one of models.accounts; those of the private servers, where asked for by links that are
        the process's own."""
        urls = self.urls
        if self.options.accounts:
            urls = urls | _private_urls(self.folder, self.private, self.ports, self.options, account)
        return {name: self._linked(url, process) for name, url in urls.items()}

    def _linked(self, url: str, process: str) -> str:
        for server in self.private:
            if link := self.ports.get(link_name(process, server)):
                url = url.replace(f"{ports.LOOPBACK}:{self.ports[server]}/", f"{ports.LOOPBACK}:{link}/")
        return url

    @property
    def link_names(self) -> list[str]:
        """Nodes speak to the broker and to Redis, workers to PostgreSQL, too."""
        if not self.options.links:
            return []
        return _link_names(self.options, self.private)

    def data_of(self, server: str) -> Path:
        """The server's own folder; a link when the server's account could not reach the run folder."""
        return self.folder.data / server


def make_plan(options: Options, folder: RunFolder) -> Plan:
    """Decide ports, addresses and passwords. Needs the folder to exist; starts nothing.

    :raises StepFailed: the options contradict the environment, or the port is taken
    """
    environment = os.environ.get("VOTEMILL_ENV", "development")
    if options.unlimited and environment == "production":
        raise StepFailed("--unlimited lifts every limit and is refused when VOTEMILL_ENV is production")
    if options.nodes and not ports.is_free(options.port):
        raise StepFailed(f"port {options.port} is taken by another program; choose one with --port")
    urls = existing_services()
    private = [server for server, section in SERVERS.items() if section not in urls]
    if options.replica and "postgres" not in private:
        raise StepFailed("--replica follows the stack's own PostgreSQL, but an existing one is named")
    if options.synchronous and not options.replica:
        raise StepFailed("--synchronous is about the standby of --replica")
    if options.backup and "postgres" not in private:
        raise StepFailed("--backup archives the stack's own PostgreSQL, but an existing one is named")
    if options.tls:
        certificates.make(folder)  # before several servers ask for them at once
    known = folder.remembered()
    wanted = [*private, "rabbitmq-dist"] + ["standby"] * options.replica
    wanted += [*METRIC_SERVERS, "carbon-query"] if options.metrics else []
    wanted += ["links", *_link_names(options, private)] if options.links else []
    wanted += [f"node-{n}" for n in range(1, options.nodes + 1) if options.nodes > 1]
    chosen = ports.free_ports(wanted, known.get("ports", {}), taken={options.port})
    # The broker's data belongs to its node name, so the name outlives a move of the folder.
    broker_node = known.get("broker_node", f"votemill-{folder.identity}@localhost")
    folder.remember(ports=known.get("ports", {}) | chosen, broker_node=broker_node)
    return Plan(
        options=options,
        folder=folder,
        environment=environment,
        urls=urls | _private_urls(folder, private, chosen, options),
        private=private,
        ports=chosen,
        broker_node=broker_node,
    )


def link_name(process: str, server: str) -> str:
    """What a link is called in ``Plan.ports``."""
    return f"{process}:{server}"


def _link_names(options: Options, private: list[str]) -> list[str]:
    counts = {"node": options.nodes, "worker": options.workers, "host-worker": options.host_workers}
    return [
        link_name(f"{kind}-{number}", server)
        for kind, count in counts.items()
        for number in range(1, count + 1)
        for server in private
        if (kind, server) != ("node", "postgres")
    ]


def existing_services() -> dict[str, str]:
    """Addresses that the caller's environment or the current environment's part of settings.toml names.

    The defaults of settings.toml don't count: they are what a process uses that nobody has told anything.
    """
    environment = os.environ.get("VOTEMILL_ENV", "development")
    file = ROOT / "settings.toml"
    settings = tomllib.loads(file.read_text()) if file.exists() else {}
    named = {}
    for section in SERVERS.values():
        url = os.environ.get(f"VOTEMILL_{section.upper()}__URL") or settings.get(environment, {}).get(section, {}).get(
            "url"
        )
        if url:
            named[section] = str(url)
    return named


def account(name: str) -> str | None:
    """The account that a server runs as: its own when root starts it, otherwise the caller's."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        raise StepFailed(f"the account {name} is missing, which its Debian package makes") from None


def server_env(home: Path) -> dict[str, str]:
    """A small environment for a server, so that nothing of the caller's leaks into it."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": f"{path}:/usr/sbin:/sbin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": str(home)}


def _private_urls(
    folder: RunFolder, private: list[str], chosen: dict[str, int], options: Options, account: str | None = None
) -> dict[str, str]:
    """For an account, or for the one that may do everything; without the servers that don't know it."""
    urls = {}
    secure = "s" if options.tls else ""
    if account is None or account in accounts.GROUPS:
        login = _login(folder, "database", account)
        for server, name in (("postgres", "database"), ("standby", "replica")):
            if server in chosen:
                urls[name] = f"postgresql://{login}{ports.LOOPBACK}:{chosen[server]}/votemill"
    if "rabbitmq" in private and (account is None or account in accounts.PERMISSIONS):
        login = _login(folder, "broker", account)
        urls["broker"] = f"amqp{secure}://{login}{ports.LOOPBACK}:{chosen['rabbitmq']}/%2F"
    if "redis" in private:
        login = _login(folder, "redis", account or accounts.OPERATOR) if options.accounts else ""
        urls["redis"] = f"redis{secure}://{login}{ports.LOOPBACK}:{chosen['redis']}/0"
    return urls


def _login(folder: RunFolder, server: str, account: str | None) -> str:
    password = folder.secret(f"{server}-{account}" if account else f"{server}-password")
    return f"{account or accounts.OWNER}:{quote(password)}@"
