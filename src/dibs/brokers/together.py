"""Publishers that wait for the lock of one file store what they have in one transaction.

Each leaves its message with the first in line, who stores all of them, and waits for an answer: so
one wait for the disk is shared by all who would have stood in line for theirs (decision 0045).

Owns: who leads, and what each is answered.
Must never: tell a publisher that nothing was stored while somebody else may be storing it.
Called by: brokers that are files, whose statement `holder` finds a message.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from dibs.alike import runs_of
from dibs.brokers.contract import STORED, Duplicate, Published
from dibs.clock import Clock
from dibs.errors import BrokerError, PublishUnknown
from dibs.local.batch import Batch
from dibs.local.database import Database
from dibs.local.group import Group, Whom
from dibs.message import Message

RETRY_SECONDS = 0.01
"""How often who waits tries for the lead: it is free for so long where a leader gave up."""
DEAD_SECONDS = 0.1
"""How long an answer may come after its leader gave the lock up: it answers before, mostly."""

OF_STORED, ALONE, UNKNOWN, OF_DUPLICATE = b"s", b"a", b"u", b"d"
"""What is answered: it is stored; store it alone; nobody can tell; the id of what is there."""


Answers = list[Published]
Told = Callable[[Answers], object]
"""Is told what became of each message of a batch, before the lock is given up."""


class Commit(Protocol):
    """Stores a batch; an error says that nothing of it is stored, or that nobody can tell."""

    def __call__(self, batch: Batch, *told: Told, wait: float | None) -> Answers:
        """Store it, waiting for the lock for `wait` seconds."""
        ...


class Left(Batch):
    """What publishers have left; nobody has it before there is the lock to store it."""

    def __init__(self, collect: Callable[[], list[Message]], clock: Clock) -> None:
        super().__init__([], 0)
        self._collect = collect
        self._clock = clock

    def fill(self) -> None:
        """Collect it."""
        super().__init__(runs_of(self._collect()), self._clock.wall_ms())


class Together:
    """One publisher among those of a file."""

    def __init__(self, db: Database, group: Group, commit: Commit, clock: Clock) -> None:
        self._db = db
        self._group = group
        self._commit = commit
        self._clock = clock
        self._asked: list[Whom] = []
        """Whose messages this one has collected and not answered."""
        self._has_own = False
        """Whether this one has its own message, which another leader may have collected."""

    def publish(self, message: Message) -> Published | None:
        """Store a message, or have it stored by another; None if it is to be stored alone.

        Raises:
            BrokerBusy, or what storing raises: nothing was stored.
            PublishUnknown: nobody can tell.
        """
        self._db.check_file()  # what is left beside a file that was replaced, others would store
        if not self._group.leave(msgspec.msgpack.encode(message)):
            return None
        deadline = time.monotonic() + self._db.lock_seconds
        try:
            return self._answered(message, deadline)
        except BaseException:
            self._group.take_back()
            raise

    def _answered(self, message: Message, deadline: float) -> Published | None:
        while not self._group.leads():
            answer = self._group.wait(RETRY_SECONDS)
            if answer is not None:
                return _read(answer)
            if time.monotonic() > deadline:
                busy = self._db.busy()
                if self._group.take_back():
                    raise busy
                raise PublishUnknown(f"it is with another process, and {busy}")
        answers = self._lead(message, deadline - time.monotonic())
        if self._has_own:
            return answers[0]
        answer = self._group.wait(DEAD_SECONDS)
        return self._found(message) if answer is None else _read(answer)

    def _lead(self, message: Message, wait: float) -> Answers:
        """Store what all have left, and `message`, if it is still here."""
        self._has_own = False
        try:
            left = Left(partial(self._collected, message), self._clock)
            return self._commit(left, self._tell, wait=wait)
        except BrokerError as error:
            self._tell_all(UNKNOWN if isinstance(error, PublishUnknown) else ALONE)
            if self._has_own or self._group.take_back():
                raise
            return []
        except BaseException:
            self._tell_all(UNKNOWN)
            raise
        finally:
            self._group.lead_no_more()

    def _collected(self, message: Message) -> list[Message]:
        self._group.lead_no_more()  # and then collect: who finds the lead taken has left its note
        self._has_own = self._group.take_back()
        messages = [message] if self._has_own else []
        for whom, note in self._group.collect():
            try:
                messages.append(msgspec.msgpack.decode(note, type=Message))
            except msgspec.MsgspecError:
                self._group.answer(whom, ALONE)  # another version of dibs wrote it
            else:
                self._asked.append(whom)
        return messages

    def _tell(self, answers: Answers) -> None:
        asked, self._asked = self._asked, []
        for whom, answer in zip(asked, answers[self._has_own :], strict=True):
            there = OF_DUPLICATE + answer.id if isinstance(answer, Duplicate) else OF_STORED
            self._group.answer(whom, there)

    def _tell_all(self, answer: bytes) -> None:
        asked, self._asked = self._asked, []
        for whom in asked:
            self._group.answer(whom, answer)

    def _found(self, message: Message) -> Published:
        """Look for a message whose leader died: it may be done and gone, or was never stored."""
        if self._db.run("holder", message.id, None):
            return STORED
        raise PublishUnknown("the process that was storing it died")


def _read(answer: bytes) -> Published | None:
    if answer == UNKNOWN:
        raise PublishUnknown("the process that was storing it cannot tell")
    if answer == ALONE:
        return None
    return STORED if answer == OF_STORED else Duplicate(answer[len(OF_DUPLICATE) :])
