"""Looking at queues and clearing them up, as far as AMQP goes.

Owns: what people see of a RabbitMQ server through dibs, and the marks of paused queues.
Must never: show single jobs: to see one is to take it away from whoever could run it.
Called by: the command line, through the contract.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from dibs.brokers import checks, contract
from dibs.brokers.privacy import connection
from dibs.errors import OptionError
from dibs.message import JobView, QueueCounts
from dibs.states import State
from dibs.wires.amqp import letters
from dibs.wires.amqp.address import Address
from dibs.wires.amqp.inbox import Inbox
from dibs.wires.amqp.post import KEEPING, MARK, PERSISTENT, Post
from dibs.wires.amqp.press import Press, Sheet

WORN = 1_000
"""How many looks a name is given back from before a new copy takes its place. Each is a delivery,
and a queue's limit of those would end the name; jobs are not looked at."""

_TAKES = (
    "this broker cannot show or move single jobs: AMQP can only take a message, not look at it;"
    " the server's own management page can"
)


class RabbitInspector(contract.Inspector):
    """Counts, purges and pauses."""

    def __init__(
        self,
        address: Address,
        post: Post,
        call: Callable[[], AbstractContextManager[None]],
        press: Callable[[], Press],
        inbox: Callable[[], Inbox],
    ) -> None:
        self._address = address
        self._post = post
        self._call = call
        self._press = press
        self._inbox = inbox

    def queues(self) -> list[QueueCounts]:
        """Return how much is ready; AMQP tells nothing else."""
        with self._call():
            press = self._press()
            return [self._counts(press, name) for name in self._names()]

    def findings(self) -> list[contract.Finding]:
        """Say what the server says of itself, and what AMQP cannot ask for."""
        with self._call():
            press = self._press()
        said = press.server_properties or {}
        version = str(said.get("version", "unknown"))
        timeout = self._address.consumer_timeout
        node = str(said.get("cluster_name", "unknown"))
        parameters = self._address.parameters
        verified = None if parameters.ssl_options is None else True
        return [
            contract.Finding("RabbitMQ", version, "good"),
            contract.Finding("cluster", node, "good"),
            contract.Finding("queues", "quorum, confirmed, rejecting what is over a limit", "good"),
            connection(parameters.host, verified, "use amqps://"),
            contract.Finding(
                "consumer_timeout",
                f"{timeout:,} s, as the URL says" if timeout else "none, as the URL says",
                "note",
                "AMQP cannot ask for it: compare it with the server's own setting",
            ),
            contract.Finding(
                "policies",
                "unknown",
                "note",
                "AMQP cannot ask for them: no message-ttl, expires or delivery-limit on"
                f" `{self._post.prefix}.*`",
            ),
        ]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> contract.Page:
        """Refuse."""
        del queue, state, limit, after
        self._refuse()

    def job(self, id: bytes) -> JobView | None:
        """Refuse."""
        del id
        self._refuse()

    def redrive(self, ids: Sequence[bytes]) -> list[contract.Answered]:
        """Refuse."""
        del ids
        self._refuse()

    def discard(self, ids: Sequence[bytes]) -> int:
        """Refuse."""
        del ids
        self._refuse()

    def purge(self, queue: str) -> int:
        """Remove what is ready; what is scheduled lies among that of other queues, and stays."""
        checks.queue_names([queue])
        with self._call():
            press = self._press()
            self._post.declare(press, [queue])
            answer = press.ask("queue_purge", queue=self._post.name("q", queue))
            return int(answer.message_count)

    def pause(self, queue: str) -> None:
        """Make the mark that says it: it outlives the server's restart."""
        checks.queue_names([queue])
        with self._call():
            press = self._press()
            self._post.declare(press, [queue])
            self._post.make(press, self._post.name("paused", queue), MARK)

    def resume(self, queue: str) -> None:
        """Delete the mark, which everybody hears who waits for the queue."""
        checks.queue_names([queue])
        with self._call():
            self._press().ask("queue_delete", queue=self._post.name("paused", queue))

    def _names(self) -> list[str]:
        """Read the list of queues: all of it is taken, and given back."""
        inbox = self._inbox()
        try:
            name = f"{self._post.prefix}.queues"
            number = inbox.count(name, KEEPING)
            inbox.fetch(name, number, name, KEEPING)
            names = sorted({one.body.decode() for one in inbox.unsettled.values()})
            self._renew(inbox, name)
            return names
        finally:
            inbox.say_goodbye()

    def _renew(self, inbox: Inbox, name: str) -> None:
        """Put copies in the place of what was given back so often that it would soon be dropped."""
        worn = [
            (tag, one.body)
            for tag, one in inbox.unsettled.items()
            if letters.past_of(one.properties).lost >= WORN
        ]
        copies = [Sheet("", name, PERSISTENT, body) for _, body in worn]
        fates = self._press().print(copies) if copies else []
        inbox.acknowledge([t for (t, _), fate in zip(worn, fates, strict=True) if fate == "stored"])

    def _counts(self, press: Press, queue: str) -> QueueCounts:
        ready = self._post.count(press, "q", queue)
        (paused,) = self._post.are_there(press, [self._post.name("paused", queue)])
        return QueueCounts(queue, ready, None, None, None, None, paused)

    def _refuse(self) -> NoReturn:
        raise OptionError(_TAKES)
