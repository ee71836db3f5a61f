"""The store as the server has it: which queues there are, and how messages get into them.

Owns: every name on the server, and what is declared when.
Must never: have a message confirmed that is in no queue.
Called by: the adapter and its inspector.

`PREFIX.q.QUEUE` is a queue, `PREFIX.dead.QUEUE` its dead letters, `PREFIX.delay.MS` a rung of the
ladder, `PREFIX.queues` a list of the queues' names, `PREFIX.empty` a queue to which nothing is ever
published. What is true as long as a queue exists is asked
by a message that the queue refuses: `PREFIX.store` (the store was made), `PREFIX.paused.QUEUE`.
"""

import time
from collections.abc import Sequence, Set

from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import BasicProperties

from dibs.errors import BrokerRefused
from dibs.wires.amqp.ladder import Ladder, Rung
from dibs.wires.amqp.press import Fate, Press, Sheet
from dibs.wires.amqp.wire import Blocked, TooLate

WRITTEN_SECONDS = 2.5
"""RabbitMQ 3 writes down within two seconds that there is a new quorum queue. Killed before that it
forgets the queue and all that is in it: until then nothing is published to a new one (law 1)."""

MARK: dict[str, object] = {"x-max-length": 0, "x-overflow": "reject-publish"}
"""Arguments of a queue that says something by being there: it refuses every message. It is on one
node: a quorum queue would take some, and hand to those who listen for its end what others ask."""

STORE: dict[str, object] = {"x-queue-type": "quorum", **MARK}
"""Those of the mark that nobody can do without, whichever node is down; it keeps a question or two
and refuses the others."""

KEEPING: dict[str, object] = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",  # should a policy limit it, it must not drop its oldest
    "x-delivery-limit": 1_000_000,  # RabbitMQ 4 drops what came back 20 times, if nobody says
}
PERSISTENT = b"".join(BasicProperties(delivery_mode=2).encode())
_PASSING = b"".join(BasicProperties(delivery_mode=1).encode())
_PRECONDITION_FAILED = 406


class Post:
    """Names, declarations and publishing for one prefix."""

    def __init__(self, prefix: str, ladder: Ladder) -> None:
        self.prefix = prefix
        self.empty = f"{prefix}.empty"
        self.ladder = ladder
        self._made: set[str] = set()
        self._paused: list[str] = []
        self._watched: dict[str, Press] = {}
        self._press: Press | None = None
        self._unwritten: dict[str, float] = {}
        """What was made over this connection and may not be written down yet, and when: a wait goes
        on where the call before this one, whose time was over, has left it."""

    def name(self, kind: str, queue: str) -> str:
        """Return the name of a queue of ours on the server."""
        return f"{self.prefix}.{kind}.{queue}"

    def found_store(self, press: Press) -> bool:
        """Make the store if it is not there; say whether it was, or nobody can tell for now.

        What was made over another connection is forgotten: a server that was killed may have, too.
        """
        self._press = press
        self._made.clear()
        self._unwritten.clear()
        if self.are_there(press, [f"{self.prefix}.store"]) == [True] or press.blocked:
            return True
        self.make(press, f"{self.prefix}.queues", KEEPING)
        self.make(press, self.empty, KEEPING)
        for rung in self.ladder.rungs:
            self._make_rung(press, rung)
        press.ask("exchange_declare", exchange=f"{self.prefix}.names", durable=True)
        self.make(press, f"{self.prefix}.store", STORE)
        return False

    def are_there(self, press: Press, names: Sequence[str], exchange: str = "") -> list[bool]:
        """Say which marks there are."""
        fates = press.print([Sheet(exchange, name, _PASSING, b"") for name in names])
        if press.why is not None:
            raise press.why
        return [fate in ("stored", "refused") for fate in fates]

    def declare(self, press: Press, queues: Sequence[str]) -> None:
        """Make queues; of those that are new, note the names once the server has written them down.

        What a name is noted of, and what was made before it, can be relied on by everybody.
        """
        self._meet(press)
        names, store = f"{self.prefix}.names", f"{self.prefix}.store"
        known = self.are_there(press, queues, names)
        new = [queue for queue, noted in zip(queues, known, strict=True) if not noted]
        for queue in queues:
            self.make(press, self.name("q", queue), KEEPING)
        for queue in new:
            self.dead(press, queue)
            self._unwritten.setdefault(self.name("q", queue), time.monotonic())
        for queue in new:
            self._await(press, {self.name("q", queue)})
            press.print([Sheet("", f"{self.prefix}.queues", PERSISTENT, queue.encode())])
            press.ask("queue_bind", queue=store, exchange=names, routing_key=queue)

    def paused(self, press: Press, queues: Sequence[str]) -> list[str]:
        """Return which of `queues` are paused, and have the resuming of each be heard on `press`.

        While the server takes no messages it cannot be asked, and all is as it was.
        """
        if press.blocked:
            return self._paused
        marks = [self.name("paused", queue) for queue in queues]
        there = self.are_there(press, marks)
        if press.blocked:
            return self._paused
        for mark, paused in zip(marks, there, strict=True):
            if paused and self._watched.get(mark) is not press:
                press.ask(
                    "basic_consume", queue=mark, on_message_callback=_nobody, consumer_tag=mark
                )
                self._watched[mark] = press
            elif not paused:
                self._watched.pop(mark, None)
        self._paused = [queue for queue, paused in zip(queues, there, strict=True) if paused]
        return self._paused

    def count(self, press: Press, kind: str, queue: str) -> int:
        """Return how many messages a queue of ours has ready; make it if it is not there."""
        answer = press.ask(
            "queue_declare", queue=self.name(kind, queue), durable=True, arguments=KEEPING
        )
        return int(answer.message_count)

    def dead(self, press: Press, queue: str) -> str:
        """Return the queue of dead letters of `queue`."""
        self._meet(press)
        name = self.name("dead", queue)
        if name not in self._made:
            self.make(press, name, KEEPING)
        return name

    def rung(self, press: Press, wait_ms: int) -> tuple[str, int | None]:
        """Return the exchange that delays a message, and when it must have left at the latest."""
        self._meet(press)
        rung, expires_ms = self.ladder.rung(wait_ms)
        if rung.name not in self._made:
            self._make_rung(press, rung)
        return rung.name, expires_ms

    def send(self, press: Press, sheets: Sequence[Sheet], *, patient: bool) -> list[Fate]:
        """Publish; what has no queue any more, because somebody deleted it, is given one.

        `patient`: wait until that is written down. Whose leases would run out meanwhile does not.

        Raises:
            BrokerRefused, Blocked, AMQPError, TooLate: nothing was stored.
        """
        self._meet(press)
        if patient and self._unwritten:
            self._await(press, _places(sheets))
        fates = press.print(sheets)
        lost = [index for index, fate in enumerate(fates) if fate == "unroutable"]
        if lost and press.why is None:
            again = [sheets[index] for index in lost]
            try:
                self._make_again(press, again)
                if patient:
                    self._await(press, _places(again))
            except (BrokerRefused, Blocked, AMQPError, TooLate):
                if len(lost) == len(sheets):
                    raise
                return fates
            for index, fate in zip(lost, press.print(again), strict=True):
                fates[index] = fate
        return fates

    def _meet(self, press: Press) -> None:
        if self._press is not press:
            self.found_store(press)

    def _make_again(self, press: Press, lost: Sequence[Sheet]) -> None:
        self._made.clear()
        for key in {sheet.key for sheet in lost}:
            self.make(press, key, KEEPING)
        exchanges = {sheet.exchange for sheet in lost}
        for rung in self.ladder.rungs:
            if rung.name in exchanges:
                self._make_rung(press, rung)
        self._unwritten |= dict.fromkeys(_places(lost), time.monotonic())

    def _await(self, press: Press, places: Set[str]) -> None:
        """Wait until these are written down, of those that were made just now."""
        for place in self._unwritten.keys() & places:
            press.linger(self._unwritten[place] + WRITTEN_SECONDS)
            del self._unwritten[place]

    def _make_rung(self, press: Press, rung: Rung) -> None:
        self.make(press, rung.name, rung.arguments)
        press.ask("exchange_declare", exchange=rung.name, exchange_type="fanout", durable=True)
        press.ask("queue_bind", queue=rung.name, exchange=rung.name)

    def make(self, press: Press, name: str, arguments: dict[str, object]) -> None:
        """Make a queue of the server, if it is not there.

        Raises:
            BrokerRefused: there is one of that name, made otherwise.
        """
        try:
            press.ask("queue_declare", queue=name, durable=True, arguments=arguments)
        except ChannelClosedByBroker as closed:
            if closed.reply_code != _PRECONDITION_FAILED:
                raise
            raise BrokerRefused(
                f"the server has a queue `{name}` of another kind ({closed.reply_text}):"
                " delete it, or choose another `?prefix=`"
            ) from closed
        self._made.add(name)


def _places(sheets: Sequence[Sheet]) -> set[str]:
    """Return what must be there for these to arrive: queues, and rungs of the ladder."""
    return {place for sheet in sheets for place in (sheet.exchange, sheet.key)}


def _nobody(*_: object) -> None:
    """Take a delivery that there never is: a mark refuses every message."""
