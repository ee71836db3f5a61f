"""What the conformance suite asks of whoever brings a broker: a way to open it, and its time.

Owns: `Harness`, one store and its clock for the length of one test.
Must never: know which broker it holds.
Called by: the conformance suite and the state machine, in this package and in others' tests.
"""

from collections.abc import Callable

from dibs.brokers.contract import Broker
from dibs.clock import Clock
from dibs.testing.clock import ManualClock

MakeBroker = Callable[[Clock], Broker]


class Harness:
    """One store of its own, opened as often as a test likes, and the time that passes there.

    `make_broker` opens one more Broker object on the same store; the first call creates the store.
    It must be picklable (a partial of a module's function is) if the broker's capabilities say that
    processes share it, since the suite then opens it in another process.

    A broker whose clock is a server's own overrides `let_pass` to really wait, and sets `tick_ms`
    to the finest step that its clock can be held to; `clock` must then be moved along, because the
    state machine's reference broker runs on it. `wall_steps` False says that nobody can set that
    clock, so nothing is asked of such a step. `due_for_good` False says that no store notes that
    something has fallen due: where that clock is set back, it waits again. `great_many` is how many
    messages are enough to be moved in several cuts, for the cases that look for what a cut may
    break. `soon_seconds` is how long a bell may take that must ring for a queue that goes on, and
    `pause_seen_ms` how long a pause may take to reach the other Broker objects.
    """

    tick_ms = 1
    wall_steps = True
    due_for_good = True
    great_many = 2_100
    soon_seconds = 1.0
    pause_seen_ms = 0

    def __init__(self, make_broker: MakeBroker, clock: ManualClock | None = None) -> None:
        self.make_broker = make_broker
        self.clock = clock or ManualClock()
        self._open: list[Broker] = []

    def open(self) -> Broker:
        """Open one more Broker object on the store; the harness closes it."""
        broker = self.make_broker(self.clock)
        self._open.append(broker)
        return broker

    def reopen(self, broker: Broker) -> Broker:
        """Close `broker` and open another one in its place."""
        broker.close()
        self._open.remove(broker)
        return self.open()

    def let_pass(self, ms: int) -> None:
        """Let `ms` milliseconds pass for the broker."""
        self.clock.advance(ms)

    def step_wall(self, ms: int) -> None:
        """Set the broker's wall clock by `ms`, without any time passing."""
        self.clock.step_wall(ms)

    def close(self) -> None:
        """Close every Broker object; the store is the caller's to remove."""
        for broker in self._open:
            broker.close()
        self._open.clear()
