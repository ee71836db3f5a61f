"""Where a server of the Redis protocol is, and how a connection to it is made.

Owns: the forms of URLs and what they mean to redis-py.
Must never: put a password into a text.
Called by: the Redis broker's `open_url` and `open_redis`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

from msgspec import Struct
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from dibs.errors import BrokerUnavailable, OptionError, UrlError
from dibs.spelling import did_you_mean
from dibs.wires.resolve import addresses
from dibs.wires.url import ESCAPED, split

FORM = "[user:password@]host[:port][/number of the database][?prefix=dibs]"
PORT = 6379
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Connecting(Protocol):
    """What is used of a connection of redis-py, whichever kind it is."""

    def connect(self) -> None:
        """Connect, and say who one is."""

    def disconnect(self) -> None:
        """Close the socket."""


class Address(Struct, frozen=True):
    """How a connection is made, and how that is shown to people: without secrets.

    `client` is the ready-made one that this is the address of, if it is: what asks sentinels must
    live as long as somebody may ask. `no_primary` is said when none of those knows whom to ask.
    """

    shown: str
    kind: Callable[..., Connecting]
    settings: Mapping[str, Any]
    client: object = None
    no_primary: str = ""

    def how_many(self, seconds: float) -> int:
        """Say how many addresses are tried one after the other: those of its name, if it has one.

        Raises:
            OSError: it has none, or nobody said so in time.
        """
        host, port = self.settings.get("host"), self.settings.get("port", PORT)
        return max(1, len(addresses(host, port, seconds))) if host else 1

    def greeting(self) -> Iterator[tuple[Any, ...]]:
        """Yield the commands with which a new connection begins.

        Raises:
            BrokerUnavailable: a ready-made client's provider has no credentials.
        """
        if words := [word for word in self._credentials() if word]:
            yield ("AUTH", *words)
        if number := self.settings.get("db"):
            yield ("SELECT", number)

    def _credentials(self) -> tuple[Any, ...]:
        provider = self.settings.get("credential_provider")
        if not provider:
            return self.settings.get("username"), self.settings.get("password")
        try:
            return tuple(provider.get_credentials())
        except Exception as exc:  # it is somebody's own code, and what it says may be a secret
            raised = type(exc).__name__
        raise BrokerUnavailable(f"{self.shown}: its credential provider raised {raised}")


def address_of(url: str, options: Mapping[str, str]) -> tuple[Address, dict[str, str]]:
    """Read a URL; return also its options, those of `options` where it has none.

    With `rediss` and `valkeys` the connection is TLS, and the server must show a certificate of its
    host's name that the machine trusts.

    Raises:
        UrlError: it cannot be read; the text says what is wrong.
    """
    scheme, _, rest = url.partition("://")
    secure = scheme in ("rediss", "valkeys")
    try:
        parts = split(url)
        place = (parts.hostname or "localhost", parts.port or PORT, int(parts.path[1:] or 0))
    except ValueError:
        shown = f"{scheme}://***@{rest.rpartition('@')[2]}" if "@" in rest else url
        raise UrlError(f"{shown.partition('?')[0]}: write {scheme}://{FORM}, {ESCAPED}") from None
    host, port, number = place
    shown = f"{scheme}://{host}:{port}/{number}"
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given.keys() - options.keys():
        raise UrlError(f"{shown}: there is no option `{name}`{did_you_mean(name, options)}")
    settings: dict[str, Any] = {"host": host, "port": port, "db": number}
    settings |= {
        name: unquote(value)
        for name, value in (("username", parts.username), ("password", parts.password))
        if value
    }
    if secure:
        settings |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return Address(shown, SSLConnection if secure else Connection, settings), {**options, **given}


def namespace_of(prefix: str) -> str:
    """Return what keys begin with.

    Raises:
        OptionError: `prefix` is not 1 to 100 of A-Z a-z 0-9 _ . -
    """
    if not PREFIX.fullmatch(prefix):
        raise OptionError(f"prefix {prefix!r} is not 1 to 100 of A-Z a-z 0-9 _ . -")
    return f"{prefix}:"


def address_in(client: Redis) -> Address:
    """Return where a ready-made client's pool connects to, and as it does."""
    pool = client.connection_pool
    settings: dict[str, Any] = pool.connection_kwargs
    host, port = settings.get("host", "localhost"), settings.get("port", PORT)
    place = settings.get("path") or getattr(pool, "service_name", None) or f"{host}:{port}"
    shown = f"redis://{place}/{settings.get('db', 0)}"
    if not isinstance(pool, SentinelConnectionPool):
        return Address(shown, pool.connection_class, settings, client)
    kind = partial(_connection_by_sentinels, pool)
    asked = ", ".join(f"{at['host']}:{at['port']}" for at in _sentinels_of(pool))
    why = "they do not answer, or refuse the password, or do not know it"
    no_primary = f"no primary of {pool.service_name!r} is known to the sentinels {asked}: {why}"
    return Address(shown, kind, settings, client, no_primary)


def _sentinels_of(pool: SentinelConnectionPool) -> list[Mapping[str, Any]]:
    return [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]


def _connection_by_sentinels(pool: SentinelConnectionPool, **settings: Any) -> Connecting:
    """Return a connection that asks the sentinels within half of its time: each on a new one.

    The clients in the pool would each take five seconds for it, and try again and again.
    """
    manager = copy(pool.sentinel_manager)
    half = settings["socket_timeout"] / 2
    share = half / (2 * len(manager.sentinels))  # of each, for the connection and for the answer
    bounds = {
        "socket_connect_timeout": share,
        "socket_timeout": share,
        "retry": Retry(NoBackoff(), 0),
    }
    manager.sentinels = [
        Redis(at["host"], at["port"], **{**manager.sentinel_kwargs, **bounds})
        for at in _sentinels_of(pool)
    ]
    asking = copy(settings["connection_pool"])
    asking.sentinel_manager = manager
    own = {"socket_connect_timeout": half, "connection_pool": asking}
    made: Connecting = pool.connection_class(**{**settings, **own})
    return made
