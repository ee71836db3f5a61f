"""A broker on whose way acknowledgements get lost: the window that no queue can close.

Called by: tests of effects that must not happen twice, which put it in the place of a worker's.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from dibs import App
from dibs.brokers.contract import Applied
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.message import Ack, Settlement


class LosesAcks:
    """A broker whose acknowledgements get lost on the way, the first of each job."""

    def __init__(self, broker: Any, lost: set[bytes]) -> None:
        self._broker = broker
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def settle(self, settlements: Sequence[Settlement]) -> Any:
        first = [s for s in settlements if isinstance(s.outcome, Ack) and self._loses(s)]
        answers = iter(self._broker.settle([s for s in settlements if s not in first]))
        return [Applied() if s in first else next(answers) for s in settlements]

    def _loses(self, acknowledged: Settlement) -> bool:
        # By id, not by fence: on a slow machine the first lease may run out before its job is done.
        known = acknowledged.lease.message.id in self._lost
        self._lost.add(acknowledged.lease.message.id)
        return not known


def left(app: App) -> int:
    """Return how many jobs are not done."""
    broker = open_broker(app.url, worker_id=b"look", clock=SystemClock())
    with closing(broker):
        [counts] = broker.inspector().queues()
    return (counts.ready or 0) + (counts.scheduled or 0) + (counts.in_flight or 0)
