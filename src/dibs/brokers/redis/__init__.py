"""Queues on a Redis or Valkey server.

Called by: `brokers.url` for `redis://`, `rediss://`, `valkey://` and `valkeys://`, and whoever has a
client of redis-py already.
"""

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import Redis
from redis.connection import Connection, SSLConnection

from dibs.brokers.contract import Broker
from dibs.brokers.redis.broker import RedisBroker
from dibs.brokers.redis.link import Address, Link, scripts
from dibs.clock import Clock
from dibs.errors import OptionError, UrlError
from dibs.spelling import did_you_mean

__all__ = ["RedisBroker", "open_redis", "open_url"]

PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
FORM = "redis://[user:password@]host[:port][/number][?prefix=dibs]"


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queues at `url`, such as `redis://localhost:6379/0?prefix=dibs`.

    `rediss` and `valkeys` are TLS, and the server's certificate is verified.

    Raises:
        UrlError: it cannot be read.
        BrokerUnavailable: the server cannot be reached.
    """
    address, prefix = _address(url)
    return _opened(address, prefix, clock, worker_id)


def open_redis(client: Redis, *, clock: Clock, worker_id: bytes, prefix: str = "dibs") -> Broker:
    """Open the queues on the server of a ready-made client.

    Connections are made as the client's pool makes them, with its credentials, certificates or
    sentinels; neither its connections nor its time-outs are used.

    Raises:
        OptionError: `prefix` is not 1 to 100 of A-Z a-z 0-9 _ . : -
        BrokerUnavailable: the server cannot be reached.
    """
    pool = client.connection_pool
    settings: dict[str, Any] = pool.connection_kwargs
    host = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    shown = f"redis://{host}/{settings.get('db', 0)}"
    return _opened(Address(shown, pool.connection_class, settings), prefix, clock, worker_id)


def _opened(address: Address, prefix: str, clock: Clock, worker_id: bytes) -> Broker:
    if not PREFIX.fullmatch(prefix):
        raise OptionError(f"prefix {prefix!r} is not 1 to 100 of A-Z a-z 0-9 _ . : -")
    return RedisBroker(Link(address, f"{prefix}:", clock, scripts()), worker_id)


def _address(url: str) -> tuple[Address, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        db = int(parts.path.strip("/") or 0)
    except ValueError:
        raise UrlError(f"a Redis URL is {FORM}; this one has {_fault(url)}") from None
    ...
