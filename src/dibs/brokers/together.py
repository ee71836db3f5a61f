"""Publishers that wait for the lock of one file store what they have in one transaction.

Each leaves its message with the first in line, who stores all of them, and waits for an answer: so
one wait for the disk is shared by all who would have stood in line for theirs (decision 0045).

A leader may die between its commit and its answers. So it marks first that there is somebody to be
answered, and notes the answers in its transaction: the next one with the lock gives them in its
place. Who then has the lock and no answer knows that nothing was stored.

Owns: who leads, and what each is answered.
Must never: tell a publisher that nothing was stored while somebody else may be storing it.
Called by: brokers that are files, with the statements `told` and `keep_told`.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial

from dibs.alike import runs_of
from dibs.brokers import notes
from dibs.brokers.contract import STORED, Duplicate, Published
from dibs.clock import Clock
from dibs.errors import BrokerError, PublishUnknown
from dibs.local.batch import Batch
from dibs.local.database import Database
from dibs.local.group import WHOM_BYTES, Group, Whom
from dibs.message import Message

RETRY_SECONDS = 0.01
"""How often who waits tries for the lead: it is free for so long where a leader gave up."""

STORED_IT, FOUND_IT, ALONE = b"s", b"f", b"a"
"""What is answered: it is stored; it is there already, as the id that follows; store it alone."""

Answers = list[Published]
Commit = Callable[[Batch, Callable[[], object]], Answers]
"""Stores a batch, and calls what tells of it before the lock is given up. A `BrokerError` says that
nothing is stored, or that nobody can tell."""


class Left(Batch):
    """What publishers have left; nobody has it before there is the lock to store it."""

    def __init__(self, fill: Callable[[Batch], None], note: Callable[[Answers], None]) -> None:
        super().__init__([], 0)
        self._fill: Callable[[Batch], None] | None = fill
        self._note = note

    def stored_by(self, store: Callable[[Batch], Answers]) -> Callable[[], Answers]:
        """Have it collected first, once, and the answers noted in the same transaction."""

        def collected_and_noted() -> Answers:
            if self._fill is not None:
                fill, self._fill = self._fill, None
                fill(self)
            answers = store(self)
            self._note(answers)
            return answers

        return collected_and_noted


class Together:
    """One publisher among those of a file."""

    def __init__(self, db: Database, group: Group, clock: Clock) -> None:
        self._db = db
        self._group = group
        self._clock = clock
        self._owners: list[Whom] = []
        """Who left what this one has collected."""
        self._has_own = False
        """Whether this one has its own message, which another leader may have collected."""
        self._had_lock = False
        self._told = b""

    def publish(self, message: Message, commit: Commit) -> Published | None:
        """Store a message, or have it stored by another; None if it is to be stored alone.

        Raises:
            BrokerBusy, or what storing raises: nothing was stored.
            PublishUnknown: nobody can tell.
        """
        self._db.check_file()  # what is left beside a file that was replaced, others would store
        if not self._group.leave(notes.note_of(message)):
            return None
        try:
            return self._answered(message, commit)
        except BaseException:
            self._group.take_back()
            raise

    def _answered(self, message: Message, commit: Commit) -> Published | None:
        began, seconds = time.monotonic(), self._db.lock_seconds
        while not self._group.leads():
            answer = self._group.wait(RETRY_SECONDS)
            if answer is not None:
                return _meaning(answer)
            waited = time.monotonic() - began
            if waited > seconds / 2 and self._group.take_back():
                return None  # who leads may be stopped, and need not have the lock
            if waited > seconds:
                raise _unknown(self._db.busy())
        try:
            answers = self._lead(message, commit)
        except BrokerError as error:
            return self._after(error)  # before the lead is given up: the next would store it
        finally:
            self._group.lead_no_more()
        if self._has_own:
            return answers[0]
        # Who collected it answers before it gives the lock up, or its answers were given just now.
        answer = self._group.wait(0)
        return None if answer is None else _meaning(answer)

    def _lead(self, message: Message, commit: Commit) -> Answers:
        """Store what all have left, and `message`, if nobody has collected it.

        If it fails, the others are not told: one after the other leads, and sees for itself.
        """
        self._owners, self._has_own, self._had_lock = [], False, False
        return commit(Left(partial(self._collect, message), self._note), self._tell)

    def _after(self, error: BrokerError) -> Published | None:
        """Say what became of the own message when it could not lead."""
        answer = self._group.wait(0)
        if answer is not None:
            return _meaning(answer)
        if self._had_lock or self._group.take_back():
            raise error
        raise _unknown(error)

    def _collect(self, message: Message, into: Batch) -> None:
        self._group.lead_no_more()  # and then collect: who finds the lead taken has left its note
        if self._group.is_marked():
            ((told,),) = self._db.run("told")
            self._answer_all(told)
        self._had_lock = True
        self._has_own = self._group.take_back()
        messages = [message] if self._has_own else []
        for whom, note in self._group.collect():
            found = notes.read(note, Message)
            if found is None:
                self._group.answer(whom, ALONE)  # another version of dibs wrote it
            else:
                messages.append(found)
                self._owners.append(whom)
        into.take(runs_of(messages), self._clock.wall_ms())
        if not self._has_own:
            into.alone = None  # not handed over: if this one dies, another must be able to tell

    def _note(self, answers: Answers) -> None:
        if self._owners:
            self._group.mark()
            pairs = zip(self._owners, answers[self._has_own :], strict=True)
            self._told = b"".join(_record(whom, answer) for whom, answer in pairs)
            self._db.run("keep_told", self._told)

    def _tell(self) -> None:
        if self._owners:
            with contextlib.suppress(BrokerError):  # it is stored; they are answered later
                self._answer_all(self._told)

    def _answer_all(self, told: bytes) -> None:
        """Give answers that are noted; only then nobody else has to."""
        at = 0
        while at < len(told):
            begin = at + WHOM_BYTES + 1
            end = begin + told[begin - 1]
            self._group.answer(told[at : begin - 1], told[begin:end])
            at = end
        self._group.unmark()


def _record(whom: Whom, answer: Published) -> bytes:
    code = FOUND_IT + answer.id if isinstance(answer, Duplicate) else STORED_IT
    return whom + len(code).to_bytes(1) + code


def _meaning(answer: bytes) -> Published | None:
    if answer == ALONE:
        return None
    return STORED if answer == STORED_IT else Duplicate(answer[len(FOUND_IT) :])


def _unknown(error: BrokerError) -> PublishUnknown:
    return PublishUnknown(f"it is with another process, which does not answer: {error}")
