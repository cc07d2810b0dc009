"""This machine: disks, open files and the kernel's settings. In a container those of the container."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from scripts.checkup.findings import Finding, Here, at_most, guarded, judged

_GIGABYTE = 10**9
_SYN_BACKLOG = 1024
_PORTS = 28_000
_RESERVED_FILES = 300  # a node keeps these for itself


def check(here: Here) -> Iterator[Finding]:
    for ask in (_disks, _files, _kernel):
        yield from guarded(f"machine {ask.__name__.strip('_')}", ask(here), here)


def _disks(here: Here) -> Iterator[Finding]:
    settings = here.settings
    named = [settings.log.fallback_folder, settings.retention.archive, settings.probe.folder, tempfile.gettempdir()]
    folders = [Path("/"), *([here.run_dir] if here.run_dir else [])]
    folders += [Path(folder) for folder in named if folder.startswith("/") and Path(folder).exists()]
    seen: set[int] = set()
    for folder in folders:
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        size = shutil.disk_usage(folder)
        found = f"{size.free / _GIGABYTE:.1f} of {size.total / _GIGABYTE:.1f} GB are free"
        advice = "make room or enlarge it: a full disk stops PostgreSQL and RabbitMQ"
        yield at_most(f"disk of {folder}", 1 - size.free / size.total, 0.9, 0.97, found, advice)


def _files(here: Here) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = here.settings.node.max_connections + _RESERVED_FILES
    found = f"{soft} may be open (at most {hard}); node.max_connections wants {wanted}"
    advice = "LimitNOFILE or ulimit -n for nodes; with fewer, a node takes fewer connections"
    yield judged("open files", soft >= wanted, found, here.at_fault, advice)


def _kernel(here: Here) -> Iterator[Finding]:
    backlog = here.settings.node.backlog
    yield from _number(here, "net/core/somaxconn", backlog, "a burst of arrivals is dropped beyond it")
    yield from _number(here, "net/ipv4/tcp_max_syn_backlog", _SYN_BACKLOG, "a burst of arrivals is dropped beyond it")
    first, last = map(int, _read("net/ipv4/ip_local_port_range").split())
    advice = "sysctl net.ipv4.ip_local_port_range='16384 60999': a balancer needs one for each connection to a node"
    yield judged("ip_local_port_range", last - first >= _PORTS, f"{first} to {last}", here.at_fault, advice)
    broker = urlsplit(here.settings.broker.urls[0])
    if broker.hostname in ("127.0.0.1", "localhost") and broker.port and first <= broker.port <= last:
        advice = "a port outside of ip_local_port_range: otherwise a start of RabbitMQ fails now and then"
        yield Finding("RabbitMQ port", here.at_fault, str(broker.port), advice)
    overcommit = _read("vm/overcommit_memory")
    advice = "sysctl vm.overcommit_memory=1 on Redis' machine, if it makes snapshots; 2 may refuse any process memory"
    yield judged("overcommit_memory", overcommit in "01", overcommit, here.at_fault, advice)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists():
        chosen = pages.read_text().partition("[")[2].partition("]")[0]
        advice = f"echo madvise > {pages} on the machines of Redis and PostgreSQL: latency"
        yield judged("transparent huge pages", chosen != "always", chosen, here.at_fault, advice)


def _number(here: Here, name: str, least: int, why: str) -> Iterator[Finding]:
    found = int(_read(name))
    advice = f"sysctl {name.replace('/', '.')}={least}: {why}"
    yield judged(name.rpartition("/")[2], found >= least, str(found), here.at_fault, advice)


def _read(name: str) -> str:
    return Path("/proc/sys", name).read_text().strip()
