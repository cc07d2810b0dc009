"""Redis connections whose every call ends soon."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.runtime import tls
from models.runtime.settings import RedisSettings


def open_redis(settings: RedisSettings) -> redis.Redis:
    """A client that connects when first used. A call costs at most a few times ``timeout_s`` and may be repeated once:
    everything that workers do in Redis is idempotent."""
    return redis.Redis.from_url(
        settings.url,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[redis.ConnectionError],
        **tls.redis_options(settings),
    )
