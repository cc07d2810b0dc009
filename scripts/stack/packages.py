"""Installs the Debian packages that are missing, without a system service coming up or staying enabled."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.stack.progress import StepFailed, say, step

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_ASIDE = Path("/usr/sbin/policy-rc.d.before-votemill")
POLICY_TEXT = (
    "#!/bin/sh\n# Written by Votemill's scripts/up while it installs packages: no service starts meanwhile.\nexit 101\n"
)
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/votemill.conf")

# What each package is wanted for, and the services that it would enable.
SERVICES = {
    "postgresql": ["postgresql.service"],
    "redis-server": ["redis-server.service"],
    "rabbitmq-server": ["rabbitmq-server.service", "epmd.service", "epmd.socket"],
    "haproxy": ["haproxy.service"],
    "nodejs": [],
    "npm": [],
    "chromium-headless-shell": [],
    "pgbackrest": ["pgbackrest.service"],
    "graphite-carbon": ["carbon-cache.service"],
    "graphite-web": [],
    "gunicorn": [],
    "prometheus-alertmanager": ["prometheus-alertmanager.service"],
    "faketime": [],
    "rsyslog": ["rsyslog.service", "syslog.socket"],
    "rsyslog-gnutls": [],
}


def _command(*names: str) -> Callable[[], bool]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return lambda: any(shutil.which(name, path=path) for name in names)


PRESENT: dict[str, Callable[[], bool]] = {
    "postgresql": lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    "redis-server": _command("redis-server"),
    "rabbitmq-server": lambda: Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists(),
    "haproxy": _command("haproxy"),
    "nodejs": _command("node", "nodejs"),
    "npm": _command("npm"),
    "chromium-headless-shell": _command("chromium-headless-shell"),
    "pgbackrest": _command("pgbackrest"),
    "graphite-carbon": _command("carbon-cache"),
    "graphite-web": lambda: Path("/usr/lib/python3/dist-packages/graphite").exists(),
    "gunicorn": _command("gunicorn"),
    "prometheus-alertmanager": _command("prometheus-alertmanager"),
    "faketime": lambda: any(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")),
    "rsyslog": _command("rsyslogd"),
    "rsyslog-gnutls": lambda: any(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")),
}


def install_missing(packages: list[str], log: Path) -> None:
    """Install those of the packages whose programs are not there.

    :raises StepFailed: neither root nor sudo, or the package manager failed twice, the second time with fresh lists
    """
    missing = [name for name in packages if not PRESENT[name]()]
    if not missing:
        return
    if os.geteuid() != 0 and not shutil.which("sudo"):
        raise StepFailed(f"{', '.join(missing)} must be installed, which needs root or sudo")
    with step(f"Debian packages {', '.join(missing)}", announce=True), log.open("a") as out, _no_service_starts():
        if _install(missing, out) != 0:
            _as_root(["apt-get", "update"], out)
            if _install(missing, out) != 0:
                raise StepFailed(f"{', '.join(missing)} could not be installed", log)
        for unit in (unit for name in missing for unit in SERVICES[name]):
            _disable(unit, out)
    still_missing = [name for name in missing if not PRESENT[name]()]
    if still_missing:
        raise StepFailed(f"{', '.join(still_missing)} were installed but their programs are not there", log)


def _install(packages: list[str], out: object) -> int:
    options = ["-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    return _as_root(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", *options, *packages], out)


def _disable(unit: str, out: object) -> None:
    """Undo what the package's installation enabled; harmless for units that are not there."""
    # The helper works without a running systemd, but only for a caller that looks like a package script.
    _as_root(["env", "DPKG_MAINTSCRIPT_PACKAGE=votemill", "deb-systemd-helper", "disable", unit], out)
    if unit.endswith(".service"):
        name = unit.removesuffix(".service")
        if Path("/etc/init.d", name).exists():
            _as_root(["update-rc.d", name, "disable"], out)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Hold every service back with a policy-rc.d of ours, and put the machine's own one back afterwards.

    PostgreSQL's package would also make a cluster of its own, which nobody here asked for: that is switched off too.
    """
    _restore_policy()  # An earlier run may have been killed in between.
    if POLICY.exists():
        _as_root(["mv", str(POLICY), str(POLICY_ASIDE)])
    _write_as_root(POLICY, POLICY_TEXT, mode="755")
    made_cluster_rule = not NO_CLUSTER.exists()
    if made_cluster_rule:
        _as_root(["mkdir", "-p", str(NO_CLUSTER.parent)])
        _write_as_root(NO_CLUSTER, "create_main_cluster = false\n", mode="644")
    try:
        yield
    finally:
        _restore_policy()
        if made_cluster_rule:
            _as_root(["rm", "-f", str(NO_CLUSTER)])


def _restore_policy() -> None:
    if POLICY.exists() and POLICY.read_text(errors="replace") == POLICY_TEXT:
        _as_root(["rm", "-f", str(POLICY)])
    if POLICY_ASIDE.exists() and not POLICY.exists():
        _as_root(["mv", str(POLICY_ASIDE), str(POLICY)])


def _write_as_root(file: Path, text: str, mode: str) -> None:
    subprocess.run(_rooted(["tee", str(file)]), input=text.encode(), stdout=subprocess.DEVNULL, check=True, timeout=30)
    _as_root(["chmod", mode, str(file)])


def _as_root(command: list[str], out: object = subprocess.DEVNULL) -> int:
    done = subprocess.run(
        _rooted(command),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,  # type: ignore[call-overload]
    )
    return int(done.returncode)


def _rooted(command: list[str]) -> list[str]:
    return command if os.geteuid() == 0 else ["sudo", *command]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", choices=PRESENT)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    try:
        install_missing(options.packages, options.log)
    except StepFailed as failure:
        say(f"✗ {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
