"""The load balancer in front of several nodes."""

from __future__ import annotations

import http.client
import resource

from scripts.stack import ports
from scripts.stack.data_folders import make_data_folder, write_for_server
from scripts.stack.plan import Plan, account, server_env
from scripts.stack.program import Program

NAME = "haproxy"

# A node that drains answers 503 on its ready check: it is DOWN within a second, takes no new connections, and keeps the
# tunnels it has, which it closes by itself spread over its drain time. Therefore no on-marked-down shutdown-sessions.
CONFIGURATION = """\
global
    maxconn {connections}
    hard-stop-after {hard_stop}
    # Two stacks that choose the same port in the same moment would both get it, and half of each other's browsers.
    noreuseport
    log stdout format raw daemon notice

defaults
    mode http
    log global
    option redispatch
    # A client that went away in the middle of a poll is no load any more.
    option abortonclose
    retries 3
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout http-request 15s
    timeout queue 5s
    # A node that takes another one's browsers answers late for a moment: it must not count as dead in the middle of it.
    timeout check 1s
    timeout tunnel 1h
    # In the words of the wire contract and as protected as a node's answers, also when no node is there to say them.
    http-error status 502 {busy}
    http-error status 503 {busy}
    http-error status 504 {busy}

frontend browsers
    bind {bind}
    # What a client claims about its own address is thrown away: the nodes trust this header from here.
    http-request del-header X-Forwarded-For
    option forwardfor
    default_backend nodes

backend nodes
    balance leastconn
    # The polling transport needs one node for all requests of a session.
    dynamic-cookie-key {cookie_key}
    # A node that dies, drains or hangs in the middle of a handshake costs its browsers nothing: another one answers.
    # Only for what may be repeated; other calls that a hanging node has taken get 504. Polls may take longer.
    http-request set-timeout server 10s unless {{ path_beg /socket.io/ }} {{ url_param(sid) -m found }}
    retry-on conn-failure empty-response response-timeout 503
    http-request disable-l7-retry unless METH_GET
    cookie votemill-node insert indirect nocache dynamic httponly attr SameSite=Lax
    option httpchk GET /api/health/ready
    http-check expect status 200
    default-server check inter 500ms fall 2 rise 2 slowstart 5s
{servers}
"""


_BUSY = (
    '{"success":false,"error":"The service is busy, please try again","code":"no_node",'
    '"retryAfter":1,"correlationId":""}'
)
_PROTECTION = (
    "hdr X-Content-Type-Options nosniff hdr Referrer-Policy no-referrer hdr X-Frame-Options DENY "
    "hdr Content-Security-Policy \"default-src 'none'; frame-ancestors 'none'\" "
    "hdr Cross-Origin-Resource-Policy same-origin"
)


def program(plan: Plan) -> Program:
    """The master process, with the worker that it watches."""
    user = account("haproxy")
    data = make_data_folder(plan.folder, NAME, user)
    argv = ["haproxy", "-W", "-db", "-f", str(data / "haproxy.cfg")]
    return Program(NAME, "haproxy", argv, server_env(data), cwd=data, user=user)


def prepare(plan: Plan) -> None:
    """Write the configuration for the nodes of this plan."""
    data = make_data_folder(plan.folder, NAME, account("haproxy"))
    text = configuration(
        bind=f"{ports.LOOPBACK}:{plan.options.port}",
        connections=_most_connections(),
        cookie_key=plan.folder.secret("balancer-cookie-key"),
        servers=[f"server {name} {ports.LOOPBACK}:{port}" for name, port in plan.node_ports.items()],
    )
    write_for_server(data / "haproxy.cfg", text)


def configuration(*, bind: str, connections: int, cookie_key: str, servers: list[str], hard_stop: str = "30s") -> str:
    """The whole file: where browsers come in, and the lines that name the nodes.

    ``hard_stop``: after a reload, or when it stops, tunnels are cut after this.
    """
    return CONFIGURATION.format(
        bind=bind,
        connections=connections,
        cookie_key=cookie_key,
        busy=f"content-type application/json string '{_BUSY}' hdr Retry-After 1 {_PROTECTION}",
        hard_stop=hard_stop,
        servers="\n".join(f"    {server}" for server in servers),
    )


def is_ready(plan: Plan) -> bool:
    """Whether it passes a request on to a node that is ready."""
    return answers_ready(plan.options.port)


def _most_connections() -> int:
    """Each passed-on connection takes two files; HAProxy refuses to start with more than the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 20000 if hard == resource.RLIM_INFINITY else min(20000, (hard - 200) // 2)


def answers_ready(port: int) -> bool:
    """Whether GET /api/health/ready answers 200 on the port."""
    connection = http.client.HTTPConnection(ports.LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/api/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
