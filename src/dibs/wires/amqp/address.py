"""Where a RabbitMQ server is, and what is asked of it: read from a URL, or given.

Owns: the form of the URL, and the settings of a connection.
Must never: put a password into a text.
Called by: `open_url` and `open_rabbitmq`.
"""

import re
import ssl
from copy import copy
from urllib.parse import parse_qsl, unquote

from msgspec import Struct
from pika.connection import ConnectionParameters, Parameters, SSLOptions
from pika.credentials import PlainCredentials

from dibs.errors import OptionError, UrlError
from dibs.spelling import did_you_mean
from dibs.wires.url import ESCAPED, split

CONSUMER_TIMEOUT_SECONDS = 1_800
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_FORM = "amqp[s]://user:password@host[:port]/vhost[?prefix=dibs&consumer_timeout=1800]"
_OPTIONS = ("consumer_timeout", "prefix")


class Address(Struct, frozen=True):
    """A server, and the part of it that is ours.

    `consumer_timeout` is after how many seconds the server takes back what is not acknowledged, 0
    where it never does: AMQP has no way to ask for it.
    """

    parameters: Parameters
    prefix: str = "dibs"
    consumer_timeout: int = CONSUMER_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise OptionError(f"prefix {self.prefix!r} is not 1 to 100 of A-Z a-z 0-9 _ . -")
        if self.consumer_timeout and self.consumer_timeout < 60:
            raise OptionError("consumer_timeout is 0 for none, or 60 seconds at least")

    @property
    def shown(self) -> str:
        """Where it is, for people: without user and password."""
        to = self.parameters
        host = f"[{to.host}]" if ":" in to.host else to.host
        vhost = "" if to.virtual_host == "/" else to.virtual_host
        return f"{'amqps' if to.ssl_options else 'amqp'}://{host}:{to.port}/{vhost}"

    def with_heartbeat(self, seconds: int) -> Parameters:
        """Return the settings of a connection that is lost after `seconds` of silence, 0: never."""
        parameters = copy(self.parameters)
        parameters.heartbeat = seconds
        return parameters


def address_of(url: str) -> Address:
    """Read a URL.

    Raises:
        UrlError: it cannot be read, or has an option that there is not.
    """
    try:
        parts = split(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        options = dict(pairs)
        port = parts.port
        timeout = int(options.get("consumer_timeout", CONSUMER_TIMEOUT_SECONDS))
    except ValueError:
        scheme = url.partition("://")[0]
        text = f"this {scheme} URL cannot be read: the form is {_FORM}, {ESCAPED}"
        raise UrlError(text) from None
    for name in options:
        if name not in _OPTIONS:
            raise UrlError(f"no option `{name}` in {_FORM}{did_you_mean(name, _OPTIONS)}")
    host = parts.hostname or "localhost"
    secure = SSLOptions(ssl.create_default_context(), host) if parts.scheme == "amqps" else None
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    parameters = ConnectionParameters(
        host=host,
        port=port or (5_671 if secure else 5_672),
        virtual_host=unquote(parts.path[1:]) or "/",
        credentials=PlainCredentials(user, password, erase_on_connect=False),
        ssl_options=secure,
        client_properties={"connection_name": "dibs"},
    )
    try:
        return Address(parameters, options.get("prefix", "dibs"), timeout)
    except OptionError as wrong:
        raise UrlError(f"{wrong}: the form is {_FORM}") from None
