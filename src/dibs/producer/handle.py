"""The one broker of a process, as its producers use it.

Owns: opening it at the first use, declaring queues, publishing until each answer is known, and what
an answer means to a caller.
Must never: be used by two threads at a time (see `door`), or close a broker that was opened before
a fork: it is the parent's.
Called by: `Door`; `Producer` after a fork.
"""

from collections.abc import Callable, Sequence, Set
from typing import TypeVar

from dibs.alike import ids_of, queues_of
from dibs.brokers.contract import STORED, Broker, Duplicate, Published, Refused, Stored, Unknown
from dibs.errors import (
    BrokerError,
    BrokerUnavailable,
    DibsError,
    OptionError,
    PayloadTooLarge,
    PublishUnknown,
)
from dibs.message import Message
from dibs.producer.ids import as_text

T = TypeVar("T")
Verdict = bytes | DibsError
"""The id of the live job that a message is, or stands for; or why there is none."""


def own(error: DibsError) -> DibsError:
    """Return an error for one caller: a verdict may be shared, and what is raised is not."""
    copy = type(error)(*error.args)
    copy.__cause__ = error
    return copy


def keep_open(inherited: Broker) -> None:
    """Keep a broker of a forked child's parent from ever being freed.

    A driver closes what is freed, at the latest when the interpreter ends, and a SQLite database
    must not be closed by a process that has not opened it.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


TRIES = 3
"""How often a message is published whose answer was lost; each try is bounded by the broker."""


class Handle:
    """A broker that is opened when it is needed."""

    def __init__(self, open_broker: Callable[[], Broker]) -> None:
        self._open = open_broker
        self._broker: Broker | None = None
        self._declared: set[str] = set()

    def publish(self, messages: Sequence[Message]) -> list[Verdict]:
        """Store messages, as many at a time as the broker takes; say of each what became of it.

        A message whose answer was lost is published again, with the same id.

        Raises:
            BrokerError: nothing was stored.
        """
        if not messages:
            return []
        broker = self.serving(queues_of(messages))
        limit = broker.capabilities.batch_limit
        verdicts = self._stored(broker, messages[:limit])
        for at in range(limit, len(messages), limit):
            try:
                verdicts += self._stored(broker, messages[at : at + limit])
            except BrokerError as error:  # what came before it is stored
                verdicts += [error] * (len(messages) - at)
                break
        return verdicts

    def _stored(self, broker: Broker, messages: Sequence[Message]) -> list[Verdict]:
        answers: list[Published]
        why = ""
        try:
            answers = broker.publish(messages)
        except PublishUnknown as error:
            answers = [Unknown() for _ in messages]
            why = f": {error}"
        if answers.count(STORED) == len(messages):  # one step in C, however many they are
            return list(ids_of(messages))
        self._ask_again(broker, messages, answers)
        return [
            message.id if type(answer) is Stored else verdict(message, answer, broker, why)
            for message, answer in zip(messages, answers, strict=True)
        ]

    def serving(self, queues: Set[str]) -> Broker:
        """Return the broker, which has these queues.

        Raises:
            BrokerError: it cannot be opened, or make them.
        """
        broker = self._broker or self._opened()
        if not self._declared.issuperset(queues):
            broker.declare(sorted(queues - self._declared))
            self._declared |= queues
        return broker

    def close(self) -> None:
        """Close the broker, if it is open."""
        broker, self._broker = self._broker, None
        self._declared.clear()
        if broker is not None:
            broker.close()

    def drop(self) -> None:
        """Forget the broker in a forked child, where not even its memory may be given back."""
        inherited, self._broker = self._broker, None
        self._declared.clear()
        if inherited is None:
            return
        keep_open(inherited)
        if not inherited.capabilities.shared_between_processes:
            self._open = _refuse_to_open(inherited.url)

    def look(self, at: Callable[[Broker], T]) -> T:
        """Ask the broker something.

        Raises:
            BrokerError: it cannot be asked.
        """
        return at(self._opened())

    def open_another(self) -> Broker:
        """Open one more broker, for a thread of its own."""
        return self._open()

    def _opened(self) -> Broker:
        broker = self._broker
        if broker is None:
            broker = self._broker = self._open()
        return broker

    def _ask_again(
        self, broker: Broker, messages: Sequence[Message], answers: list[Published]
    ) -> None:
        """Publish again whose answers were lost, and put the new ones in their places."""
        for _ in range(TRIES - 1):
            unsure = [i for i, answer in enumerate(answers) if type(answer) is Unknown]
            if not unsure:
                break
            try:
                again = broker.publish([messages[i] for i in unsure])
            except BrokerError:  # says nothing of the first try, whose outcome stays unknown
                continue
            for i, answer in zip(unsure, again, strict=True):
                answers[i] = answer


def verdict(message: Message, answer: Published, broker: Broker, why: str = "") -> Verdict:
    """Return what an answer other than `Stored` means to whoever enqueued; `why` it was lost."""
    if isinstance(answer, Duplicate):  # of itself, if an earlier try had taken effect
        return answer.id
    if isinstance(answer, Refused):
        too_large = len(message.args) > broker.capabilities.payload_limit
        refusal = PayloadTooLarge if too_large else OptionError
        return refusal(f"`{message.task}` was not enqueued on {broker.url}: {answer.why}")
    return PublishUnknown(
        f"{broker.url} did not say whether it stored the job {as_text(message.id)} of"
        f" `{message.task}`, {TRIES} times in a row{why}: it may or may not be there"
    )


def _refuse_to_open(url: str) -> Callable[[], Broker]:
    def refuse() -> Broker:
        raise BrokerUnavailable(
            f"{url} lives in the process that opened it, and this one is a fork of it: a job would"
            " be seen by nobody; use a broker that processes share, such as `sqlite:///file.db`"
        )

    return refuse
