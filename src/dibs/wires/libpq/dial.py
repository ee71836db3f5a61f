"""Making connections: an address as libpq takes it, less the options that are ours.

Owns: reading a URL, what is set on each new connection, and that making one has an end.
Must never: show a password: libpq's errors name host and user only, and ours the redacted URL.
Called by: adapters.
"""

import select
from typing import Any
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct
from psycopg import Connection, OperationalError, ProgrammingError, conninfo, pq

from dibs.clock import Clock
from dibs.errors import UrlError
from dibs.spelling import did_you_mean

_SETTINGS = {
    # Less than the client's own limit, so that the server's answer, a certain no, comes first;
    # but not where short leases make that shorter: then it is unknown what became of the call.
    "statement_timeout": "4500",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "10000",
    "default_transaction_isolation": "read\\ committed",
}
_DEFAULTS = {
    "application_name": "dibs",
    "client_encoding": "UTF8",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
}
_LISTS = ("host", "hostaddr", "port")
"""What names several hosts: lists of one length, but one port does for all."""
SCHEMA = "dibs"
_UNREADABLE = (
    "a PostgreSQL URL cannot be read: write postgresql://user:password@host:5432/database,"
    " with %40, %2F and %3F for an @, / and ? in a name or password"
)
_READY = {
    int(pq.PollingStatus.READING): select.POLLIN,
    int(pq.PollingStatus.WRITING): select.POLLOUT,
}


class Address(Struct, frozen=True):
    """Where to connect to, by libpq's parameters, and what of the URL is ours.

    `listen` False: a pooler gives each transaction another connection, which keeps no settings.
    """

    parameters: dict[str, Any]
    schema: str
    listen: bool

    @property
    def shown(self) -> str:
        """The address for people: made anew of what is no secret."""
        of = self.parameters
        host, port = str(of.get("host", "localhost")), of.get("port")
        by_socket = host.startswith(("/", "@"))
        place = "" if by_socket else host if port is None else f"{host}:{port}"
        query = {"host": host} if by_socket else {}
        query |= {} if self.schema == SCHEMA else {"schema": self.schema}
        text = urlencode(query, safe="/")
        return f"postgresql://{place}/{of.get('dbname', '')}{'?' if text else ''}{text}"


def address(url: str) -> Address:
    """Read a URL as libpq does, less `schema=` and `listen=`.

    Raises:
        UrlError: it cannot be read, or has an option that nobody knows.
    """
    place, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    ours = {"schema": SCHEMA, "listen": "yes"}
    theirs = [(name, value) for name, value in given if name not in ours]
    keywords = [default.keyword.decode() for default in pq.Conninfo.get_defaults()]
    unknown = [name for name, _ in theirs if name not in keywords]
    path = place.partition("://")[2].partition("/")[2]
    if "@" in path or (unknown and "@" in query):
        raise UrlError(_UNREADABLE)  # it may be a password: nothing of it is shown
    if unknown:
        guess = did_you_mean(unknown[0], (*ours, *keywords))
        raise UrlError(f"a PostgreSQL URL has no option `{unknown[0]}`{guess}")
    try:
        read = conninfo.conninfo_to_dict(f"{place}?{urlencode(theirs)}" if theirs else place)
    except ProgrammingError:
        raise UrlError(_UNREADABLE) from None
    ours |= {name: value for name, value in given if name in ours}
    if ours["listen"] not in {"yes", "no"} or not ours["schema"].isidentifier():
        raise UrlError("of a PostgreSQL URL, `listen` is yes or no, and `schema` a plain name")
    parameters = _DEFAULTS | {name: value for name, value in read.items() if value is not None}
    listen = ours["listen"] == "yes"
    if listen:
        settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
        parameters["options"] = f"{settings} {parameters.get('options', '')}".strip()
    return Address(parameters, ours["schema"], listen)


def dial(parameters: dict[str, Any], clock: Clock, seconds: float) -> Connection[Any]:
    """Connect within so many seconds; of several hosts, to the first that will do.

    Raises:
        psycopg.OperationalError: nobody answers, or all say no.
    """
    deadline = clock.monotonic() + seconds
    hosts = _each_host(parameters)
    failed: list[str] = []
    for tried, host in enumerate(hosts):
        # One that is silent must leave time for the others: libpq has no limit for each.
        share = (deadline - clock.monotonic()) / (len(hosts) - tried)
        try:
            return _dial_one(host, clock, share)
        except OperationalError as error:
            failed.append(str(error).partition("\n")[0])
    raise OperationalError("; ".join(failed))


def _each_host(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters for each of the hosts that they name, in their order."""
    defaults = {of.keyword.decode(): of.val for of in pq.Conninfo.get_defaults()}
    known = {name: value.decode() for name, value in defaults.items() if value} | parameters
    lists = {name: str(known[name]).split(",") for name in _LISTS if name in known}
    count = max(map(len, lists.values()))
    if len(lists["port"]) == 1:
        lists["port"] *= count
    if known.get("load_balance_hosts") == "random" or {*map(len, lists.values())} != {count}:
        return [parameters]  # its order is libpq's affair, and so is what it cannot mean
    return [
        parameters | dict(zip(lists, one, strict=True)) for one in zip(*lists.values(), strict=True)
    ]


def _dial_one(parameters: dict[str, Any], clock: Clock, seconds: float) -> Connection[Any]:
    deadline = clock.monotonic() + seconds
    made = pq.PGconn.connect_start(conninfo.make_conninfo("", **parameters).encode())
    began = made.status != pq.ConnStatus.BAD
    status = int(pq.PollingStatus.WRITING if began else pq.PollingStatus.FAILED)
    while status in _READY:
        poll = select.poll()
        poll.register(made.socket, _READY[status])
        rest = deadline - clock.monotonic()
        if rest <= 0 or not poll.poll(rest * 1_000):
            silent = made.host.decode()
            made.finish()
            raise OperationalError(f"{silent} did not answer within {seconds:.3g} s")
        status = made.connect_poll()
    if status != pq.PollingStatus.OK:
        text = made.error_message.decode(errors="replace").strip()
        made.finish()
        raise OperationalError(text)
    return Connection(made)
