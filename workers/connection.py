"""Connection parameters for pika's blocking connections."""

import random

import pika

from models.runtime import tls
from models.runtime.settings import BrokerSettings

CONNECT_DEADLINE_S = 5


def parameters(settings: BrokerSettings, name: str) -> list[pika.URLParameters]:
    """Parameters under which every call ends: a broker that hangs or blocks makes it fail within seconds.

    One for each broker of a cluster, to be tried one after another; their order spreads the processes over them.
    """
    urls = settings.urls
    return [_parameters(url, settings, name) for url in random.sample(urls, len(urls))]


def _parameters(url: str, settings: BrokerSettings, name: str) -> pika.URLParameters:
    found = pika.URLParameters(url)
    if (context := tls.context(settings)) is not None:
        found.ssl_options = pika.SSLOptions(context, found.host)
    found.heartbeat = settings.heartbeat_s
    found.socket_timeout = found.stack_timeout = CONNECT_DEADLINE_S
    found.blocked_connection_timeout = settings.publish_timeout_s
    found.connection_attempts = 1
    found.client_properties = {"connection_name": f"votemill {name}"}
    return found
