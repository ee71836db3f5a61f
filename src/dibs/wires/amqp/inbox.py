"""The connection on which messages arrive, and are acknowledged.

Owns: the consumers, what they were delivered and nobody has settled, and each tag's end.
Must never: acknowledge a tag twice, or one of another connection: the server would close the
channel and give back all that it had delivered there.
Called by: the adapter.
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

from msgspec import Struct
from pika.connection import Parameters
from pika.frame import Method
from pika.spec import Basic

from dibs.wires.amqp.frames import acked, asked, returned
from dibs.wires.amqp.wire import Limit, Wire

_EPOCH_BITS = 32
"""Deliveries of one connection are fewer than so many bits can count."""

_REMEMBERED = 4_096
"""So many returns are told from what is gone: before them, each ended lease is a stale one."""

_UNDER_WAY = 31
"""RabbitMQ keeps what a channel settles in the channel's own memory while 32 commands to the queue
(`quorum_commands_soft_limit`) are not written down."""


class Consumer(Struct, gc=False):
    """A wish for messages of a queue: `prefetch` of them at most that are not settled.

    One without a name is none: its messages were asked for, one by one.
    """

    queue: str
    name: str
    prefetch: int
    unsettled: int = 0


class Delivery(Struct, gc=False):
    """A message that lies here. Nobody was granted it while its `fence` is 0."""

    consumer: Consumer
    properties: bytes
    body: bytes
    fence: int = 0
    until: float = 0.0
    arrived: float = 0.0

    @property
    def queue(self) -> str:
        """The queue that it is of."""
        return self.consumer.queue


class Inbox(Wire):
    """What the server delivers. A delivery's tag plus `epoch` is its own on all connections."""

    def __init__(self, parameters: Parameters, limit: Limit, epoch: int) -> None:
        self.epoch = epoch << _EPOCH_BITS
        self.unsettled: dict[int, Delivery] = {}
        """By tag, in the order of tags."""
        self.ready: defaultdict[str, deque[int]] = defaultdict(deque)
        """Tags of what nobody was granted yet, by queue."""
        self.stuck: defaultdict[str, list[int]] = defaultdict(list)
        """Tags of what was to go elsewhere and could not, by queue: it does not ring."""
        self.consumers: dict[str, Consumer] = {}
        """By queue, those that may be delivered more."""
        self._by_name: dict[bytes, Consumer] = {}
        """Those of which deliveries may still come in."""
        self._names = map(str, count())
        self._came_back: OrderedDict[int, None] = OrderedDict()
        self._forgotten = 0
        """The highest tag that came back and is not known as such any more."""
        self._newest = 0
        self._commands: Counter[str] = Counter()
        """How many have settled something of a queue since it showed that it has written them."""
        self._empties = 0
        super().__init__(parameters, limit, self._arrive)
        self.line.add_on_cancel_callback(self._on_cancel)
        self.line.add_callback(self._on_empty, [Basic.GetEmpty], one_shot=False)

    def buffered(self) -> int:
        """Return how many messages lie here that nobody was granted."""
        return sum(map(len, self.ready.values()))

    def at_hand(self) -> int:
        """Return how many lie here ungranted, or may be delivered without being asked for."""
        stuck = sum(map(len, self.stuck.values()))
        return self.buffered() + stuck + sum(map(self.credit, self.consumers))

    def free(self, queues: Iterable[str]) -> None:
        """Have what is stuck looked at again."""
        for queue in queues:
            self.ready[queue].extend(self.stuck.pop(queue, ()))

    def credit(self, queue: str) -> int:
        """Return how many more messages of `queue` the server may deliver."""
        consumer = self.consumers.get(queue)
        return consumer.prefetch - consumer.unsettled if consumer else 0

    def count(self, name: str, arguments: Mapping[str, object]) -> int:
        """Return how many messages a queue of the server has ready; make it if it is not there."""
        answer = self.ask("queue_declare", queue=name, durable=True, arguments=arguments)
        return int(answer.message_count)

    def listen(self, queue: str, name: str, prefetch: int) -> None:
        """Have `prefetch` more messages of `queue` delivered: a consumer's prefetch is for good."""
        self.mute(queue)
        consumer = Consumer(queue, next(self._names), min(prefetch, 65_535))
        self.consumers[queue] = self._by_name[consumer.name.encode()] = consumer
        self.begin("basic_qos", prefetch_count=consumer.prefetch)
        self.ask(
            "basic_consume", queue=name, consumer_tag=consumer.name, on_message_callback=_nobody
        )

    def mute(self, queue: str) -> None:
        """Have nothing more of `queue` delivered; what was stays."""
        if consumer := self.consumers.pop(queue, None):
            self.ask("basic_cancel", consumer_tag=consumer.name)
            self._by_name.pop(consumer.name.encode(), None)

    def fetch(self, queue: str, number: int, name: str, arguments: Mapping[str, object]) -> None:
        """Wait until `number` messages of `queue` lie here, or the server has no more for us.

        What a consumer is given at first comes after the answer to one request that asks its queue
        something, and before the answer to a request made after that.
        """
        ready = self.ready[queue]
        missing = number - len(ready)
        if self.credit(queue) < missing:
            self.listen(queue, name, missing)
        for _ in range(2):
            answers = self.begin("queue_declare", queue=name, durable=True, arguments=arguments)
            while len(ready) < number and not answers:
                self.wait_for_more()

    def prove(self) -> None:
        """Have the server show that it still counts on this connection.

        Of one that it has closed, what it said before that may be unread, and looks like life.

        Raises:
            AMQPError, Blocked, TooLate: it does not.
        """
        self.ask("basic_qos", prefetch_count=1)

    def write_down(
        self, names: Mapping[str, str], empty: str, arguments: Mapping[str, object]
    ) -> None:
        """Wait until what was settled in queues is on the server's disk; `names` has their names.

        Settling has no answer. But a queue that answers has taken in what it was sent before; and
        what a quorum queue answers to a `get` it has written behind that, in the log that all of a
        node's queues share. `empty` is one that never has a message to give.

        Sent is not what the channel keeps to itself, and a queue that does not answer is told of as
        one of no messages and no consumers. There the queue itself is asked, and once more for
        what the channel sent it only then. What it gives lies here as what was delivered: mostly
        there is room for it, where as many were settled
        (test_rule_10_many_acknowledgements_around_a_held_one_are_written_down).
        """
        for queue, name in names.items():
            there = self.ask("queue_declare", queue=name, durable=True, arguments=arguments)
            many = self._commands.pop(queue, 0) > _UNDER_WAY
            if many or not (there.message_count or there.consumer_count):
                self._get(queue, name)
            if many:
                self._get(queue, name)
        self._get("", empty)

    def acknowledge(self, tags: Sequence[int]) -> None:
        """End deliveries for good."""
        ended = {tag: self._end(tag) for tag in tags}
        kept = next(iter(self.unsettled), self._newest + 1)
        whole = max((tag for tag in tags if tag < kept), default=0)
        if whole:
            self.send(acked(whole, all_before=True))
            together = {one.name: one.queue for tag, one in ended.items() if tag <= whole}
            self._commands.update(together.values())
        others = [tag for tag in tags if tag > kept]
        self.send(b"".join([acked(tag, all_before=False) for tag in others]))
        self._commands.update([ended[tag].queue for tag in others])

    def give_back(self, tags: Collection[int]) -> None:
        """Let others have what was delivered: the server counts it as one more delivery."""
        for tag in tags:
            self._commands[self._end(tag).queue] += 1
            self.send(returned(tag))
        self.note_returns(tags)

    def note_returns(self, tags: Iterable[int]) -> None:
        """Remember of deliveries that their messages are still there, as other copies."""
        self._came_back.update(dict.fromkeys(tags))
        while len(self._came_back) > _REMEMBERED:
            self._forgotten = max(self._forgotten, self._came_back.popitem(last=False)[0])

    def is_gone(self, tag: int) -> bool:
        """Say whether a delivery was ended here, and its message with it; not of very old ones."""
        ended = self._forgotten < tag <= self._newest and tag not in self.unsettled
        return ended and tag not in self._came_back

    def _end(self, tag: int) -> Consumer:
        consumer = self.unsettled.pop(tag).consumer
        consumer.unsettled -= 1
        return consumer

    def _get(self, queue: str, name: str) -> None:
        """Ask a queue of the server for one message; wait for it, or for there being none."""
        mine, empties = Consumer(queue, "", 0), self._empties
        self._by_name[b""] = mine
        self.send(asked(name))
        self.wait(lambda: bool(mine.unsettled) or self._empties > empties)

    def _on_empty(self, _: object) -> None:
        self._empties += 1

    def _arrive(self, name: bytes, tag: int, properties: bytes, body: bytes) -> None:
        consumer = self._by_name[name]
        consumer.unsettled += 1
        self._newest = tag
        self.unsettled[tag] = Delivery(consumer, properties, body)
        self.ready[consumer.queue].append(tag)

    def _on_cancel(self, frame: Method) -> None:
        """Forget a consumer whose queue was deleted."""
        if consumer := self._by_name.pop(frame.method.consumer_tag.encode(), None):
            self.consumers.pop(consumer.queue, None)


def _nobody(*_: object) -> None:
    """Take what pika would hand on: deliveries pass it by."""
