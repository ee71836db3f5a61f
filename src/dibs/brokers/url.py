"""Brokers by URL.

Owns: the forms of URLs, which adapter a scheme stands for, and how a URL is shown to people.
Must never: import an adapter before it is asked for, or put a password into a text.
Called by: the producer's facade, the worker, the command line.
"""

import os
import re
from importlib import import_module
from typing import cast

from msgspec import Struct

from dibs.brokers.contract import Broker
from dibs.clock import Clock
from dibs.errors import UrlError
from dibs.spelling import did_you_mean


class Server(Struct, frozen=True):
    """A broker that is a server: its adapter's package, and the extra that installs its client.

    The package's `open_url(url, *, clock, worker_id)` opens it.
    """

    package: str
    extra: str


LOCAL = ("memory", "sqlite")
SERVERS: dict[str, Server] = {
    **dict.fromkeys(("amqp", "amqps"), Server("dibs.brokers.rabbitmq", "rabbitmq")),
    **dict.fromkeys(
        ("redis", "rediss", "valkey", "valkeys"), Server("dibs.brokers.redis", "redis")
    ),
    **dict.fromkeys(("postgres", "postgresql"), Server("dibs.brokers.postgres", "postgres")),
    "sqs": Server("dibs.brokers.sqs", "sqs"),
}
"""By scheme."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_PATH = r"\.{0,2}/(?!/)[^:]*"
_PAIR = r"(?<![^&;?\s])([^=&;?\s]*)=[^&;\s]*"
"""A parameter, from where one can begin: so a text of any length is read once."""
_SECRET = ("%", "auth", "cred", "key", "pass", "pwd", "secret", "sign", "token")
_FORMS = "`sqlite:///file.db` (from the working directory) or `sqlite:////full/path/file.db`"


def open_broker(url: str, *, worker_id: bytes, clock: Clock) -> Broker:
    """Open the broker at `url` for one holder, whose id is random and its own.

    Raises:
        UrlError: the URL cannot be read, or its scheme has no adapter.
        BrokerUnavailable, BrokerRefused: as the adapter says.
    """
    url = absolute(url)
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        from dibs.brokers.memory import open_memory

        return open_memory(rest, clock=clock, worker_id=worker_id)
    if scheme in SERVERS:
        return _open_server(SERVERS[scheme], url, clock, worker_id)
    from pathlib import Path

    from dibs.brokers.sqlite import open_sqlite

    return open_sqlite(Path(rest[1:]), clock=clock, worker_id=worker_id)


def _open_server(server: Server, url: str, clock: Clock, worker_id: bytes) -> Broker:
    try:
        adapter = import_module(server.package)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "dibs":
            raise
        raise UrlError(
            f"{redact(url)} needs the package `{missing.name}`, which is not installed:"
            f" pip install 'dibs[{server.extra}]'"
        ) from missing
    return cast("Broker", adapter.open_url(url, clock=clock, worker_id=worker_id))


def absolute(url: str) -> str:
    """Return `url` with a relative path resolved against the working directory.

    Raises:
        UrlError: it cannot be read; the text shows the right form.
    """
    if not isinstance(url, str):
        raise UrlError(f"a broker's URL is a text, not {url!r}; a SQLite file is {_FORMS}")
    scheme, separator, rest = url.partition("://")
    if separator and (scheme == "memory" or scheme in SERVERS):
        return url
    if scheme != "sqlite" or not separator:
        raise UrlError(_unreadable(url))
    path = rest[1:]
    if not rest.startswith("/") or not path or path.endswith("/") or not path.isprintable():
        raise UrlError(f"{redact(url)!r}: a SQLite file is {_FORMS}")
    if re.search(r"\?\w+=", path):  # else who is used to `?timeout=5` gets another, empty queue
        raise UrlError(f"{redact(url)}: a queue file takes no options: leave out `?` and the rest")
    if path == ":memory:":
        raise UrlError(f"{url}: a queue in memory is `memory://name`")
    try:
        return f"sqlite:///{os.path.abspath(path)}"
    except FileNotFoundError:
        why = "the working directory is gone: go to another, or write the full path"
        raise UrlError(f"{redact(url)}: {why}, `sqlite:////full/path/file.db`") from None


def redact(url: object) -> str:
    """Return `url` as it may be shown and logged: without passwords and tokens. Never raises."""
    text = re.sub(_PAIR, _without_secret, str(url))
    before, at, after = text.rpartition("@")
    scheme = text.partition(":")[0]
    # A path may have an @, and a file no password. A password may have an @ or a / that nobody
    # escaped, so all that could be a part of it is hidden; also of what is not quite a URL.
    if not at or scheme in LOCAL or re.fullmatch(_PATH, before):
        return text
    start = f"{scheme}://"
    return f"{start if before.startswith(start) else ''}***@{after}"


def _without_secret(pair: re.Match[str]) -> str:
    name = pair[1].lower()
    return f"{pair[1]}=***" if any(word in name for word in _SECRET) else pair[0]


def _unreadable(url: str) -> str:
    scheme, _, rest = url.partition(":")
    shown = redact(url) or "an empty text"
    meant = re.match(r"(\w+)(?::|//|$)", url)
    if meant and meant[1] in SERVERS:
        return f"{shown}: write `{meant[1]}://...`"
    if scheme == url or not re.fullmatch(_SCHEME, scheme) or rest.startswith("\\"):
        return f"{shown} is no broker's URL; a SQLite file is {_FORMS}"
    if scheme in LOCAL:
        return f"{shown}: write `memory://name`, or {_FORMS}"
    return f"{shown}: there is no broker `{scheme}`{did_you_mean(scheme, (*LOCAL, *SERVERS))}"
