"""Connection parameters for pika's blocking connections."""

import pika

from models.runtime.settings import BrokerSettings

CONNECT_DEADLINE_S = 5


def parameters(settings: BrokerSettings, name: str) -> pika.URLParameters:
    """Parameters under which every call ends: a broker that hangs or blocks makes it fail within seconds."""
    found = pika.URLParameters(settings.url)
    found.heartbeat = settings.heartbeat_s
    found.socket_timeout = found.stack_timeout = CONNECT_DEADLINE_S
    found.blocked_connection_timeout = settings.publish_timeout_s
    found.connection_attempts = 1
    found.client_properties = {"connection_name": f"votemill {name}"}
    return found
