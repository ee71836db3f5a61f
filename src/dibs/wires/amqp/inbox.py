"""The connection on which messages arrive, and are acknowledged.

Owns: the consumers, what they were delivered and nobody has settled, and each tag's end.
Must never: acknowledge a tag twice, or one of another connection: the server would close the
channel and give back all that it had delivered there.
Called by: the adapter.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count

from msgspec import Struct
from pika.connection import Parameters
from pika.frame import Method
from pika.spec import Basic

from dibs.wires.amqp.frames import acked, returned
from dibs.wires.amqp.wire import Limit, Wire

_EPOCH_BITS = 32
"""Deliveries of one connection are fewer than so many bits can count."""

_REMEMBERED = 4_096
"""So many returns are told from what is gone: before them, each ended lease is a stale one."""


class Consumer(Struct, gc=False):
    """A wish for messages of a queue: `prefetch` of them at most that are not settled."""

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
        super().__init__(parameters, limit, self._arrive)
        self.line.add_on_cancel_callback(self._on_cancel)

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

    def write_down(self, names: Iterable[str], empty: str, arguments: Mapping[str, object]) -> None:
        """Wait until what was settled in queues of the server is on its disk.

        Settling has no answer. But a queue that answers has taken in what it was told before; and
        what a quorum queue answers to a `get` it has written behind that, in the log that all of a
        node's queues share. `empty` is one that never has a message to give.
        """
        for name in names:
            self.count(name, arguments)
        answers: list[object] = []
        self.line.add_callback(answers.append, [Basic.GetEmpty])
        self.line.basic_get(queue=empty, callback=_nobody, auto_ack=True)
        self.wait(lambda: bool(answers))

    def acknowledge(self, tags: Sequence[int]) -> None:
        """End deliveries for good."""
        for tag in tags:
            self.unsettled.pop(tag).consumer.unsettled -= 1
        kept = next(iter(self.unsettled), self._newest + 1)
        whole = max((tag for tag in tags if tag < kept), default=0)
        if whole:
            self.send(acked(whole, all_before=True))
        self.send(b"".join([acked(tag, all_before=False) for tag in tags if tag > kept]))

    def give_back(self, tags: Collection[int]) -> None:
        """Let others have what was delivered: the server counts it as one more delivery."""
        for tag in tags:
            self.unsettled.pop(tag).consumer.unsettled -= 1
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
