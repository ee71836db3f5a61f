"""One connection to the server: calls of a schema's functions, each within its time.

Owns: the connection (opened when it is needed, dropped at the first error, so that no late answer
is ever taken for another), pipelines, the client's own time limit, and what an error means.
Must never: hold SQL beyond the call of a function, or show a connection string.
Called by: `listener`, adapters.

It speaks `psycopg.pq`, libpq itself: a transaction and what comes after its commit leave in one
packet (but not behind a pooler), and every wait has an end, also when the server is stopped in the
middle of an answer.
"""

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from psycopg import Connection, Error, OperationalError, adapters, pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.types.string import ByteaBinaryLoader

from dibs.clock import Clock
from dibs.errors import BrokerBusy, BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable
from dibs.wires.limit import Limit

Connect = Callable[[float], Connection[Any]]
"""Makes a connection, within so many seconds."""

Row = tuple[Any, ...]
Call = tuple[Any, ...]
"""The name of a function, and its arguments: text, numbers, None, or an `arrays.Array`."""

_LISTEN_NO = "add listen=no to the URL, and no options (docs/postgres.md, The URL)"
_TRIES = 3
_SHORTEST_DIAL_SECONDS = 0.5
"""Over TLS, or from far away, to connect takes longer than a call for a short lease may."""
_PASSING = {"40001", "40P01", "23505"}
"""Another transaction was quicker: tried again, its outcome is seen."""
_ADAPTERS = AdaptersMap(adapters)
_ADAPTERS.register_loader("uuid", ByteaBinaryLoader)  # an id is its bytes


class Unanswered(BrokerUnavailable):
    """The request left and no answer came: it may have taken effect."""


class Failed(BrokerError):
    """The server said no; `state` is its SQLSTATE. Nothing took effect."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


def reached(connect: Connect, seconds: float, shown: str) -> Connection[Any]:
    """Connect.

    Raises:
        BrokerUnavailable: nobody answers, or the server says no.
        BrokerRefused: a pooler in between keeps no settings.
    """
    try:
        return connect(seconds)
    except Error as error:
        if "unsupported startup parameter" in str(error):
            raise BrokerRefused(
                f"{shown} is behind a pooler that takes no settings ({_first_line(error)}):"
                f" {_LISTEN_NO}"
            ) from error
        raise BrokerUnavailable(f"{shown} cannot be reached: {_first_line(error)}") from error


class Session:
    """A connection that is opened anew whenever it is gone.

    `connect` is given the seconds it may take. `limit` may be that of other sessions too. `schema`
    is where the functions are. `share` is what a call may take of what is left of the limit.
    `persistent` False: each transaction may meet another connection of the server, behind a pooler.
    """

    def __init__(
        self,
        connect: Connect,
        clock: Clock,
        shown: str,
        schema: str,
        limit: Limit,
        *,
        persistent: bool = True,
        share: float = 1,
    ) -> None:
        self.shown = shown
        self.schema = schema
        self.limit = limit
        self._connect = connect
        self._clock = clock
        self.persistent = persistent
        self._share = share
        self._held: Connection[Any] | None = None
        self._prepared: set[bytes] = set()
        self._load = Transformer(_ADAPTERS)
        self._deadline = 0.0

    def beside(self, share: float) -> "Session":
        """Return another connection to the same place, with a share of the same limit."""
        of = (self._connect, self._clock, self.shown, self.schema, self.limit)
        return Session(*of, persistent=self.persistent, share=share)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._held is not None

    def call(self, *call: Any) -> list[Row]:
        """Call one function; return its rows."""
        return self.run([call])[0]

    def run(
        self, calls: Sequence[Call], *, before: Call | None = None, after: Call | None = None
    ) -> list[list[Row]]:
        """Call functions in one transaction; return the rows of each.

        `before` is called in a transaction before that, and `after` in one after it, without a way
        to the server and back in between, where there is no pooler; whatever becomes of them is
        nobody's affair.

        Raises:
            Unanswered: the connection was lost on the way, or no answer came in time.
            BrokerUnavailable: there is no connection, or no time, and nothing left.
            BrokerBusy, BrokerFull, BrokerRefused: the server said no.
        """
        self._begin()
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._run([[before] if before else [], calls, [after] if after else []])
            except Failed as error:
                if not tries_left or error.state not in _PASSING:
                    raise meaning(error, self.shown) from error
        raise AssertionError

    def answers(self) -> bool:
        """Return whether the connection is there; what was notified before has come then.

        One that does not answer in time is dropped. None is made instead, as it would be to run
        anything: that would not be the one that listens.
        """
        held = self._held
        with suppress(BrokerError):
            self.execute("SELECT")
        if self._held is not held:
            self.close()
        return self.is_open

    def execute(self, *statements: str) -> list[list[Row]]:
        """Run statements without values in one transaction; return the rows of each."""
        return self.run([("", statement) for statement in statements])

    def close(self) -> None:
        """Drop the connection."""
        held, self._held = self._held, None
        self._prepared.clear()
        if held is not None:
            held.close()

    def socket(self) -> int:
        """Return the descriptor of the connection; a new one would not be the one that listens.

        Raises:
            BrokerUnavailable: it is gone.
        """
        if self._held is None or _is_lost(self._held.pgconn):
            raise BrokerUnavailable(f"{self.shown}: the connection was lost")
        return self._held.pgconn.socket

    def way(self) -> tuple[str, bool | None]:
        """Return the server's address, and whether TLS verifies it (None: no TLS).

        The address is "" for a socket in the file system. Raises as `run` does.
        """
        self._begin()
        connection = self._opened()
        modes = [option.val for option in connection.info if option.keyword == b"sslmode"]
        verified = modes == [b"verify-full"] if connection.ssl_in_use else None
        return connection.hostaddr.decode(), verified

    def notified(self) -> list[bytes] | None:
        """Return what notifications have come; None if there is no connection.

        What came and is none is mostly the last word of a server that is about to hang up: it is
        asked, for what it still told that connection nobody would hear.
        """
        if self._held is None:
            return None
        connection = self._held.pgconn
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN)
        try:
            came = poll.poll(0)
            connection.consume_input()
        except Error:
            self.close()
            return None
        found = list(iter(connection.notifies, None))
        if came and not found:
            if not self.answers():
                return None
            found = list(iter(connection.notifies, None))
        return [note.extra for note in found]

    def _begin(self) -> None:
        now = self._clock.monotonic()
        self._deadline = now + (self.limit.until() - now) * self._share

    def _opened(self) -> pq.abc.PGconn:
        if self._held is not None and _is_lost(self._held.pgconn):
            self.close()  # nothing was sent, so nothing is unknown: it is made anew
        if self._held is None:
            seconds = self._deadline - self._clock.monotonic()
            if self._share == 1:  # the others leave time for what can do without them
                seconds += max(0, _SHORTEST_DIAL_SECONDS - self.limit.seconds)
            self._held = reached(self._pipelined, seconds, self.shown)
        return self._held.pgconn

    def _pipelined(self, seconds: float) -> Connection[Any]:
        connection = self._connect(seconds)
        try:  # it may have ended just now
            connection.pgconn.nonblocking = 1
            connection.pgconn.enter_pipeline_mode()
        except Error:
            connection.close()
            raise
        return connection

    def _run(self, transactions: Sequence[Sequence[Call]]) -> list[list[Row]]:
        """Run three transactions, of which the second counts."""
        connection = self._opened()
        if self._clock.monotonic() >= self._deadline:
            # What is sent takes effect, and nobody would hear of it: a claim leases to nobody.
            seconds = self.limit.seconds
            raise BrokerUnavailable(f"{self.shown}: nothing was sent: {seconds:.3g} s were over")
        found: list[list[list[Row]]] = [[] for _ in transactions]
        failed: list[list[Failed]] = [[] for _ in transactions]
        committed = False
        used = [at for at, transaction in enumerate(transactions) if transaction]
        # A pooler takes what follows a transaction for another connection's: it must not be sent
        # before that one is over. PgBouncer 1.18 leaves both servers waiting for the rest for ever.
        rounds = [used] if self.persistent else [[at] for at in used]
        try:
            for places in rounds:
                sent: list[list[bool]] = []
                for at in places:
                    sent.append([self._send(connection, call) for call in transactions[at]])
                    connection.pipeline_sync()
                for at, each in zip(places, sent, strict=True):
                    self._receive(connection, each, found[at], failed[at])
                    committed = committed or at == 1
        except Error as error:
            lost = connection.status == pq.ConnStatus.BAD
            self.close()
            if failed[1] or not committed:  # a call is answered before its commit
                why = "the connection was lost" if lost else _first_line(error)
                raise Unanswered(f"{self.shown}: {why}") from error
        except BaseException:
            self.close()  # an answer may be on its way, and must not be taken for another's
            raise
        if any(failed):
            # A server that became a standby, a function that was replaced, a statement that was not
            # prepared because one before it failed: all of it is mended by another connection.
            self.close()
        if failed[1]:
            raise failed[1][0]
        return found[1]

    def _send(self, connection: pq.abc.PGconn, call: Call) -> bool:
        """Send one call; return whether its statement was prepared before it."""
        name, *values = call
        if not name:
            connection.send_query_params(values[0].encode(), None, result_format=1)
            return False
        columns, _, function = name.rpartition(" ")
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        sql = f'SELECT {columns or "*"} FROM "{self.schema}".{function}({places})'.encode()
        data = [
            value if value is None or isinstance(value, bytes) else str(value).encode()
            for value in values
        ]
        formats = [int(isinstance(value, bytes)) for value in values]
        if not self.persistent:
            connection.send_query_params(sql, data, None, formats, 1)
            return False
        key = function.encode()
        new = key not in self._prepared
        if new:
            connection.send_prepare(key, sql)
            self._prepared.add(key)
        connection.send_query_prepared(key, data, formats, 1)
        return new

    def _receive(
        self,
        connection: pq.abc.PGconn,
        sent: list[bool],
        answers: list[list[Row]],
        failed: list[Failed],
    ) -> None:
        """Collect the answers up to the next commit."""
        # Of each that was prepared, the first answer is about that.
        about_calls = [yes for new in sent for yes in ((False, True) if new else (True,))]
        while True:
            answer = self._next(connection)
            if answer.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            # A server that ends the connection says so, whether or not it was asked anything.
            about_call = not about_calls or about_calls.pop(0)
            if answer.status == pq.ExecStatus.FATAL_ERROR:
                failed.append(_failed(answer))
            elif about_call and answer.status == pq.ExecStatus.TUPLES_OK:
                self._load.set_pgresult(answer)
                answers.append(self._load.load_rows(0, answer.ntuples, tuple))
            elif about_call:
                answers.append([])

    def _next(self, connection: pq.abc.PGconn) -> pq.abc.PGresult:
        while True:
            while unsent := connection.flush():
                self._wait(connection, select.POLLIN | select.POLLOUT * unsent)
                connection.consume_input()
            while connection.is_busy():
                self._wait(connection, select.POLLIN)
                connection.consume_input()
            answer = connection.get_result()
            if answer is not None:
                return answer

    def _wait(self, connection: pq.abc.PGconn, events: int) -> None:
        rest = self._deadline - self._clock.monotonic()
        poll = select.poll()
        poll.register(connection.socket, events)
        if rest <= 0 or not poll.poll(rest * 1_000):
            raise OperationalError(f"no answer within {self.limit.seconds:.3g} s")


def _is_lost(connection: pq.abc.PGconn) -> bool:
    """Take in what came between two calls: it mostly is that the server went away."""
    try:
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN)
        while connection.status == pq.ConnStatus.OK and poll.poll(0):
            connection.consume_input()
    except Error:
        return True
    return connection.status != pq.ConnStatus.OK


def _failed(answer: pq.abc.PGresult) -> Failed:
    state = answer.error_field(pq.DiagnosticField.SQLSTATE) or b""
    text = answer.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no reason given"
    return Failed(state.decode(), text.decode(errors="replace"))


def meaning(failed: Failed, shown: str) -> BrokerError:
    """Return what the server's no means to whoever called."""
    state, text = failed.state, f"{shown}: {failed} ({failed.state})"
    if state[:2] == "53" and state != "53300":
        return BrokerFull(f"{text}: nothing was stored; make room on the server, then go on")
    if state in {"55P03", "40001", "40P01"}:
        return BrokerBusy(f"{text}: another transaction holds what this one needs")
    if state == "57014":
        return BrokerBusy(f"{text}: nothing of it took effect; the server is slow, or was told to")
    if state in {"42501", "3F000", "42P01", "42883"}:
        return BrokerRefused(
            f"{text}: grant this role what it needs (see docs/postgres.md), or let the owner of"
            " the schema run `dibs migrate`"
        )
    if state in {"26000", "42P05"}:  # what was prepared is another connection's
        return BrokerRefused(f"{text}: it is behind a pooler: {_LISTEN_NO}")
    if state[:2] == "57":
        return Unanswered(text)  # it was shut down meanwhile: only a commit that was seen counts
    return BrokerUnavailable(text)


def _first_line(error: Exception) -> str:
    """Return what happened; what follows the first line may be a connection string."""
    return str(error).partition("\n")[0]
