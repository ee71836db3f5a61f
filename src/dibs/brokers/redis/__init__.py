"""Queues on a Redis or Valkey server.

Called by: `brokers.url` for `redis`, `rediss`, `valkey` and `valkeys`, and whoever has a client of
redis-py already.
"""

from redis import Redis

from dibs.brokers.contract import Broker
from dibs.brokers.redis.broker import RedisBroker
from dibs.clock import Clock
from dibs.wires.resp.address import address_in, address_of

__all__ = ["RedisBroker", "open_redis", "open_url"]


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queues at `url`, such as `redis://localhost:6379/0?prefix=dibs`.

    Raises:
        UrlError: it cannot be read.
        OptionError: its prefix cannot be one.
        BrokerUnavailable: the server cannot be reached.
        BrokerRefused: this user lacks a right.
    """
    address, options = address_of(url, {"prefix": "dibs"})
    return RedisBroker(address, options["prefix"], clock=clock, worker_id=worker_id)


def open_redis(client: Redis, *, clock: Clock, worker_id: bytes, prefix: str = "dibs") -> Broker:
    """Open the queues on the server of a ready-made client.

    Connections are made as the client's pool makes them, with its credentials, certificates or
    sentinels. Neither the client's own connections nor its time-outs and retries are used.

    Raises:
        OptionError: `prefix` is not 1 to 100 of A-Z a-z 0-9 _ . -
        BrokerUnavailable: the server cannot be reached.
        BrokerRefused: this user lacks a right.
    """
    return RedisBroker(address_in(client), prefix, clock=clock, worker_id=worker_id)
