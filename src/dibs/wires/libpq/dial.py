"""Making connections: an address as libpq takes it, less the options that are ours.

Owns: reading a URL, what is set on each new connection, and that making one has an end.
Must never: show a password: libpq's errors name host and user only, and ours the redacted URL.
Called by: adapters.
"""

import select
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct
from psycopg import Connection, OperationalError, ProgrammingError, conninfo, pq

from dibs.clock import Clock
from dibs.errors import UrlError
from dibs.spelling import did_you_mean
from dibs.wires.resolve import addresses

Way = dict[str, Any]
"""libpq's parameters for a connection."""
Dial = Callable[[Way, Clock, float], Connection[Any]]

_SETTINGS = {
    # Less than the client's own limit, so that the server's answer, a certain no, comes first;
    # but not where short leases make that shorter: then it is unknown what became of the call.
    "statement_timeout": "4500",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "10000",
    "default_transaction_isolation": "read\\ committed",
    # For a client that was cut off between a call and its commit: the server waits for the rest of
    # what it sent, with all of the transaction's locks, and no time-out above counts that.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "dibs.settings": "kept",  # nobody else's: it tells whether the others have arrived
}
_OPTIONS = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
_CHECK = b"""
SELECT current_setting('dibs.settings', true),
  (SELECT set_config(name, '10s', false) FROM pg_settings
  WHERE name = 'transaction_timeout' AND setting = '0' AND source = 'default')
"""
"""An older server does not know that time-out, and would refuse a connection that asks for it."""
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
    authority, _, path = place.partition("://")[2].partition("/")
    if authority.count("@") > 1 or "@" in path or (unknown and "@" in query):
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
        parameters["options"] = f"{_OPTIONS} {parameters.get('options', '')}".strip()
    return Address(parameters, ours["schema"], listen)


def dial(parameters: dict[str, Any], clock: Clock, seconds: float) -> Connection[Any]:
    """Connect within so many seconds; of several hosts, and addresses, to the first that will do.

    Raises:
        psycopg.OperationalError: nobody answers, or all say no.
    """
    defaults = {of.keyword.decode(): of.val for of in pq.Conninfo.get_defaults()}
    known = {name: value.decode() for name, value in defaults.items() if value} | parameters
    if "service" in parameters or known.get("load_balance_hosts") == "random":
        # What a service says, libpq alone reads, and of a random order its addresses are a part.
        return _first([parameters], _dial_one, clock, seconds)
    return _first(_each_host(parameters, known), _dial_host, clock, seconds)


def _first(ways: Sequence[Way], dial: Dial, clock: Clock, seconds: float) -> Connection[Any]:
    """Connect by the first way that leads anywhere."""
    deadline = clock.monotonic() + seconds
    failed: list[str] = []
    for tried, way in enumerate(ways):
        # One that is silent must leave time for the others: libpq has no limit for each.
        share = (deadline - clock.monotonic()) / (len(ways) - tried)
        try:
            return dial(way, clock, share)
        except OperationalError as error:
            failed.append(str(error).partition("\n")[0])
    raise OperationalError("; ".join(failed))


def _each_host(parameters: Way, known: Way) -> list[Way]:
    """Return the parameters for each of the hosts that are known, in their order."""
    lists = {name: str(known[name]).split(",") for name in _LISTS if name in known}
    count = max(map(len, lists.values()), default=0)
    if len(lists.get("port", ())) == 1:
        lists["port"] *= count
    if {*map(len, lists.values())} != {count}:
        return [parameters]  # what that cannot mean, libpq says
    return [
        parameters | dict(zip(lists, one, strict=True)) for one in zip(*lists.values(), strict=True)
    ]


def _dial_host(parameters: Way, clock: Clock, seconds: float) -> Connection[Any]:
    """Connect to one host, by its addresses in turn."""
    deadline = clock.monotonic() + seconds
    host = str(parameters.get("host", ""))
    by_name = host and not host.startswith(("/", "@")) and "," not in host
    ways = [parameters]
    if by_name and not parameters.get("hostaddr"):
        try:
            found = addresses(host, 0, seconds)
        except OSError as error:
            told = f'could not translate host name "{host}" to address: {error.strerror or error}'
            raise OperationalError(told) from error
        ways = [parameters | {"hostaddr": each} for each in found]
    return _first(ways, _dial_one, clock, deadline - clock.monotonic())


def _dial_one(parameters: Way, clock: Clock, seconds: float) -> Connection[Any]:
    made = pq.PGconn.connect_start(conninfo.make_conninfo("", **parameters).encode())
    wait = partial(_wait, made, clock, clock.monotonic() + seconds)
    try:
        began = made.status != pq.ConnStatus.BAD
        status = int(pq.PollingStatus.WRITING if began else pq.PollingStatus.FAILED)
        while status in _READY:
            wait(_READY[status], seconds)
            status = made.connect_poll()
        if status != pq.PollingStatus.OK:
            raise OperationalError(made.error_message.decode(errors="replace").strip())
        if str(parameters.get("options", "")).startswith(_OPTIONS):
            made.send_query(_CHECK)
            while made.is_busy():
                wait(select.POLLIN, seconds)
                made.consume_input()
            _check(made)
    except BaseException:
        made.finish()
        raise
    return Connection(made)


def _wait(made: pq.abc.PGconn, clock: Clock, deadline: float, events: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(made.socket, events)
    rest = deadline - clock.monotonic()
    if rest <= 0 or not poll.poll(rest * 1_000):
        raise OperationalError(f"{made.host.decode()} did not answer within {seconds:.3g} s")


def _check(made: pq.abc.PGconn) -> None:
    """Refuse a pooler that passes the settings over: it would give the connection to others."""
    answer = made.get_result()
    while made.get_result():
        pass
    if answer is None or answer.status != pq.ExecStatus.TUPLES_OK:
        raise OperationalError(made.error_message.decode(errors="replace").strip())
    if answer.get_value(0, 0) != b"kept":
        raise OperationalError("unsupported startup parameter: options, which had no effect")
