"""A worker of the demo: all that `dibs worker` is, with a line to its queue that may be bad.

Owns: which acks are lost on the way, and the record of those that are lost or refused.
Must never: change what the queue is asked or answers in any other way.
Called by: `work.py`, as `python -m dibs.cli.demo.worker SLOTS PROCESSES LOSES`.

An ack is lost as a network loses it: the worker has sent it, takes it for done and forgets the job;
the queue has never heard of it. On one machine there is no network, so it is lost here, between the
two.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dibs.brokers import contract
from dibs.brokers.sqlite import SqliteBroker
from dibs.cli.demo.record import What, note
from dibs.cli.worker import Wish, work
from dibs.clock import SystemClock
from dibs.message import Ack, Settlement
from dibs.producer.ids import as_text
from dibs.worker.service import Plan


class BadLine(SqliteBroker):
    """A queue to which every `loses`-th ack of each task is lost, the first being one; 0 for none.

    Of a job that came back none is lost: each is delivered twice for this reason at the most.
    """

    def __init__(self, path: Path, loses: int) -> None:
        super().__init__(path, worker_id=os.urandom(16), clock=SystemClock())
        self._folder = path.parent
        self._loses = loses
        self._acks: Counter[str] = Counter()

    def settle(self, settlements: Sequence[Settlement]) -> list[contract.Settled]:
        """Pass on what is not lost; write down what is, and which acks are refused."""
        lost = [self._loses_ack(one) for one in settlements]
        sent = [one for one, is_lost in zip(settlements, lost, strict=True) if not is_lost]
        answers = super().settle(sent) if sent else []
        pairs = list(zip(sent, answers, strict=True))
        self._note("refused", (one for one, answer in pairs if _refused(one, answer)))
        self._note("lost", (one for one, is_lost in zip(settlements, lost, strict=True) if is_lost))
        rest = iter(answers)
        return [contract.APPLIED if is_lost else next(rest) for is_lost in lost]

    def _loses_ack(self, settlement: Settlement) -> bool:
        if not self._loses or settlement.lease.fence > 1 or type(settlement.outcome) is not Ack:
            return False
        task = settlement.lease.message.task
        self._acks[task] += 1
        return self._acks[task] % self._loses == 1

    def _note(self, what: What, settlements: Iterable[Settlement]) -> None:
        for one in settlements:
            message = one.lease.message
            note(self._folder, what, os.getpid(), message.task, as_text(message.id))


def _refused(settlement: Settlement, answer: contract.Settled) -> bool:
    """Whether an ack came too late: the job is another's by now, or done by another."""
    late = isinstance(answer, contract.Stale | contract.Gone)
    return late and type(settlement.outcome) is Ack


def main() -> int:
    """Work until told to stop; return the exit code."""
    slots, processes, loses = map(int, sys.argv[1:])
    wish = Wish("dibs.cli.demo.tasks:app", url=None, in_process=False, reload=False)
    plan = Plan(slots, processes)
    return work(wish, plan, lambda url: BadLine(Path(url.removeprefix("sqlite:///")), loses))[1]


if __name__ == "__main__":
    sys.exit(main())
