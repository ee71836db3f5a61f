"""Messages that differ in id and arguments only: one pattern, and two columns.

Owns: the form in which many calls of one task travel from `enqueue_many` to a store, and the way
to cut any other batch into it.
Must never: be needed: it is a sequence of messages like any other, whose messages are made when
somebody looks at one.
Called by: the producer, and adapters whose insert takes columns.

To make a message costs a third of a microsecond, and to find out again that thousands are alike
costs as much: a third of all that a job of `enqueue_many` may cost (benchmarks: `enqueue_many`).
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import overload

from msgspec.structs import astuple

from dibs.message import Message


class Alike(Sequence[Message]):
    """One message for each of `ids` and `args`, in order; `pattern` has all their other fields."""

    __slots__ = ("args", "ids", "pattern")

    def __init__(self, pattern: Message, ids: Sequence[bytes], args: Sequence[bytes]) -> None:
        self.pattern = pattern
        self.ids = ids
        self.args = args

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Message: ...

    @overload
    def __getitem__(self, at: slice) -> "Alike": ...

    def __getitem__(self, at: int | slice) -> "Message | Alike":
        if isinstance(at, slice):
            return Alike(self.pattern, self.ids[at], self.args[at])
        return next(iter(Alike(self.pattern, [self.ids[at]], [self.args[at]])))

    def __iter__(self) -> Iterator[Message]:
        _, queue, task, _, *rest = astuple(self.pattern)
        # `map` calls without a tuple of arguments in between: two thirds of a loop's time.
        same = (repeat(queue), repeat(task), self.args, *map(repeat, rest))
        return map(Message, self.ids, *same)


def ids_of(messages: Sequence[Message]) -> Sequence[bytes]:
    """Return the ids, in order."""
    return messages.ids if type(messages) is Alike else [message.id for message in messages]


def queues_of(messages: Sequence[Message]) -> set[str]:
    """Return the queues that messages are for."""
    patterns = [messages.pattern] if type(messages) is Alike else messages
    return {message.queue for message in patterns}


def runs_of(messages: Sequence[Message]) -> list[Alike]:
    """Cut a batch, in its order, into runs of messages that are alike."""
    if type(messages) is Alike:  # `isinstance` of a sequence is a slow call
        return [messages]
    if len(messages) == 1:  # to compare it with nothing takes a hundredth of an `enqueue`
        (message,) = messages
        return [Alike(message, [message.id], [message.args])]
    runs: list[Alike] = []
    ids: list[bytes] = []
    args: list[bytes] = []
    names: object = None
    rest: object = None
    for message in messages:
        # All fields at once and a slice: half the cost of reading the twelve, once per message.
        fields = astuple(message)
        if fields[4:] != rest or fields[1:3] != names:
            names, rest = fields[1:3], fields[4:]
            ids, args = [], []
            runs.append(Alike(message, ids, args))
        ids.append(fields[0])
        args.append(fields[3])
    return runs
