"""Which keys Nomad knows in the blocks that job files here use. The parser takes any key, and Nomad's own check needs a
server: a misspelt one would only show in a deployment. A key that is missing here but right is added here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.runtime.expectations import nearest

LABELLED = {"group", "task", "port", "volume"}

_WORDS = {
    "job": """datacenters type namespace region node_pool priority all_at_once update group parameterized periodic meta
        constraint affinity spread reschedule vault""",
    "group": """count shutdown_delay update scaling spread constraint affinity restart reschedule network service task
        volume meta ephemeral_disk migrate disconnect vault""",
    "task": """driver user leader kill_timeout kill_signal shutdown_delay config env template resources volume_mount
        service vault identity lifecycle logs meta restart artifact constraint affinity scaling""",
    "update": """canary max_parallel auto_promote auto_revert health_check min_healthy_time healthy_deadline
        progress_deadline stagger""",
    "parameterized": "payload meta_required meta_optional",
    "periodic": "crons prohibit_overlap time_zone enabled",
    "scaling": "enabled min max policy",
    "spread": "attribute weight target",
    "constraint": "attribute operator value",
    "affinity": "attribute operator value weight",
    "restart": "attempts interval delay mode render_templates",
    "reschedule": "attempts interval delay delay_function max_delay unlimited",
    "network": "mode hostname port dns cni",
    "port": "static to host_network ignore_collision",
    "service": """name port provider tags canary_tags address address_mode task on_update enable_tag_override check
        check_restart meta connect""",
    "check": """name type path port interval timeout method header body protocol address_mode on_update
        check_restart success_before_passing failures_before_critical tls_server_name tls_skip_verify""",
    "check_restart": "limit grace ignore_warnings",
    # of the docker driver
    "config": """image args command entrypoint ports readonly_rootfs cap_drop cap_add security_opt network_mode shm_size
        init image_pull_timeout force_pull hostname dns_servers extra_hosts work_dir pids_limit volumes
        mount ulimit auth logging healthchecks labels sysctl storage_opt""",
    "mount": "type source target readonly tmpfs_options bind_options volume_options",
    "tmpfs_options": "size mode",
    "bind_options": "propagation",
    "ulimit": "nofile nproc memlock core",
    "template": """destination data source env change_mode change_signal change_script splay perms uid gid
        left_delimiter right_delimiter error_on_missing_key once wait""",
    "ephemeral_disk": "sticky migrate size",
    "wait": "min max",
    "resources": "cpu cores memory memory_max device numa",
    "volume": "type source read_only access_mode attachment_mode per_alloc mount_options",
    "volume_mount": "volume destination read_only propagation_mode",
    "vault": "role policies change_mode change_signal env disable_file cluster namespace",
}
KNOWN = {block: frozenset(words.split()) for block, words in _WORDS.items()}


def unknown_keys(block: str, body: dict[str, Any], path: str = "") -> Iterator[str]:
    """A problem for each key that Nomad doesn't know, here and in the blocks inside."""
    for key, value in body.items():
        if key not in KNOWN[block]:
            yield f"{path}{key}: unknown key{nearest(key, KNOWN[block])}"
            continue
        if key in KNOWN:
            for name, inner in _instances(key, value):
                yield from unknown_keys(key, inner, f"{path}{name}.")


def _instances(block: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each block of a kind: one, several in a list, or by their labels."""
    if block in LABELLED and isinstance(value, dict):
        yield from ((f"{block}.{label}", inner) for label, inner in value.items())
    else:
        blocks = value if isinstance(value, list) else [value]
        yield from ((block, inner) for inner in blocks if isinstance(inner, dict))  # a service's port is a name
