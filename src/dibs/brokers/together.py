"""Publishers that wait for the lock of one file store what they have in one transaction.

Each leaves its message with the first in line, who stores all of them, and waits for an answer: so
one wait for the disk is shared by all who would have stood in line for theirs (decision 0045).

A leader may die between its commit and its answers. So it marks first that there is somebody to be
answered, and notes in its transaction who: the next one with the lock answers in its place. Who
then has the lock and no answer knows that nothing was stored.

Owns: who leads, and what each is answered.
Must never: tell a publisher that nothing was stored while somebody else may be storing it.
Called by: brokers that are files, with the statements `holder`, `told` and `keep_told`.
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
from dibs.local.group import WHOM_BYTES, Group, Whom
from dibs.message import Message

RETRY_SECONDS = 0.01
"""How often who waits tries for the lead: it is free for so long where a leader gave up."""

STORED_IT, FOUND_IT, LOOK, ALONE = b"s", b"f", b"l", b"a"
"""What is answered: it is stored; it is there already, as the id that follows; look whether it is,
for who stored it died; store it alone."""

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

    def __init__(self, collect: Callable[[], Batch], note: Callable[[], object]) -> None:
        super().__init__([], 0)
        self._collect: Callable[[], Batch] | None = collect
        self._note = note

    def fill(self) -> None:
        """Collect it once, and note whose it is in each transaction that tries to store it."""
        if self._collect is not None:
            collected, self._collect = self._collect(), None
            self.take(collected.runs, collected.now)
        self._note()


class Together:
    """One publisher among those of a file."""

    def __init__(self, db: Database, group: Group, commit: Commit, clock: Clock) -> None:
        self._db = db
        self._group = group
        self._commit = commit
        self._clock = clock
        self._asked: list[Whom] = []
        """Who left what this one has collected."""
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
                return self._meaning(answer, message)
            if time.monotonic() > deadline:
                raise self._not_stored(self._db.busy())
        answers = self._lead(message, deadline - time.monotonic())
        if self._has_own:
            return answers[0]
        # It was collected by one who had the lock before, and answers before it gives that up; or
        # it died, and what it had stored was answered just now (see `_answer_for_the_dead`).
        answer = self._group.wait(0)
        return None if answer is None else self._meaning(answer, message)

    def _lead(self, message: Message, wait: float) -> Answers:
        """Store what all have left, and `message`, if nobody has collected it.

        If it fails, the others are not told: one after the other leads, and sees for itself.
        """
        self._asked, self._has_own = [], False
        left = Left(partial(self._collected, message), self._note)
        try:
            return self._commit(left, self._tell, wait=wait)
        except BrokerError as error:
            if self._has_own:
                raise
            raise self._not_stored(error) from error
        finally:
            self._group.lead_no_more()

    def _not_stored(self, error: BrokerError) -> BrokerError:
        if self._group.take_back():
            return error
        return PublishUnknown(f"it is with another process, which does not answer: {error}")

    def _collected(self, message: Message) -> Batch:
        self._group.lead_no_more()  # and then collect: who finds the lead taken has left its note
        self._answer_for_the_dead()
        self._has_own = self._group.take_back()
        messages = [message] if self._has_own else []
        for whom, note in self._group.collect():
            try:
                messages.append(msgspec.msgpack.decode(note, type=Message))
            except msgspec.MsgspecError:
                self._group.answer(whom, ALONE)  # another version of dibs wrote it
            else:
                self._asked.append(whom)
        return Batch(runs_of(messages), self._clock.wall_ms())

    def _note(self) -> None:
        if self._asked:
            self._group.mark(is_open=True)
            self._db.run("keep_told", b"".join(self._asked))

    def _tell(self, answers: Answers) -> None:
        for whom, answer in zip(self._asked, answers[self._has_own :], strict=True):
            there = FOUND_IT + answer.id if isinstance(answer, Duplicate) else STORED_IT
            self._group.answer(whom, there)
        if self._asked:
            self._group.mark(is_open=False)

    def _answer_for_the_dead(self) -> None:
        if self._group.is_marked():
            ((told,),) = self._db.run("told")
            for at in range(0, len(told), WHOM_BYTES):
                self._group.answer(told[at : at + WHOM_BYTES], LOOK)
            self._group.mark(is_open=False)

    def _meaning(self, answer: bytes, message: Message) -> Published | None:
        if answer == ALONE:
            return None
        if answer == LOOK:
            # What is not there any more was stored, and is done; so was a key that is free again.
            holder = self._db.run("holder", message.id, message.unique_key)
            is_other = holder and holder[0][0] != message.id
            return Duplicate(holder[0][0]) if is_other else STORED
        return STORED if answer == STORED_IT else Duplicate(answer[len(FOUND_IT) :])
