"""The life cycle of a message, as one table.

Owns: which state follows which event. The diagram in docs/contract.md and the exhaustive tests
are made from `MOVES`, and the memory broker moves messages only through `after`.
Must never: count, wait or decide; budgets and delays are `policy`.
Called by: the memory broker, the docs generator, tests.
"""

import enum


class State(enum.Enum):
    """Where a message is; it is in exactly one state at any moment."""

    READY = "ready"
    SCHEDULED = "scheduled"
    IN_FLIGHT = "in flight"
    DEAD = "dead"
    GONE = "gone"


class Event(enum.Enum):
    """What can happen to a message; each is one atomic compare-and-set in a broker."""

    PUBLISH = "publish"
    PUBLISH_LATER = "publish with a due time"
    FALL_DUE = "due time reached"
    CLAIM = "claim"
    ACK = "ack"
    RETURN = "nack or release"
    RETURN_LATER = "nack or release with a delay"
    EXPIRE = "lease ran out"
    REVIVE = "settled or extended late, before another claim"
    GIVE_UP = "dead letter"
    REDRIVE = "redrive"
    DISCARD = "discard"
    PURGE = "purge"


MOVES: dict[tuple[State | None, Event], State] = {
    (None, Event.PUBLISH): State.READY,
    (None, Event.PUBLISH_LATER): State.SCHEDULED,
    (State.SCHEDULED, Event.FALL_DUE): State.READY,
    (State.READY, Event.CLAIM): State.IN_FLIGHT,
    (State.IN_FLIGHT, Event.ACK): State.GONE,
    (State.IN_FLIGHT, Event.RETURN): State.READY,
    (State.IN_FLIGHT, Event.RETURN_LATER): State.SCHEDULED,
    (State.IN_FLIGHT, Event.EXPIRE): State.READY,
    (State.READY, Event.REVIVE): State.IN_FLIGHT,
    (State.IN_FLIGHT, Event.GIVE_UP): State.DEAD,
    (State.DEAD, Event.REDRIVE): State.READY,
    (State.DEAD, Event.DISCARD): State.GONE,
    (State.READY, Event.PURGE): State.GONE,
    (State.SCHEDULED, Event.PURGE): State.GONE,
}
"""Every move there is. `None` is the state before a message exists; what is not here is refused."""


def after(state: State | None, event: Event) -> State:
    """Return the state that follows `event`, or raise `KeyError` where there is no such move."""
    return MOVES[state, event]
