"""Trouble with the broker is told once, and the broker is left alone for longer each time."""

import pytest

from dibs.errors import BrokerBusy, BrokerDamaged, BrokerFull
from dibs.events import BrokerBack, BrokerTrouble, Event
from dibs.testing.clock import ManualClock
from dibs.worker.patience import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Patience


def test_a_broker_that_keeps_failing_is_told_of_once_until_it_is_back() -> None:
    told: list[Event] = []
    clock = ManualClock()
    patience = Patience(clock, told.append)
    began = clock.monotonic()
    for second in range(10):
        patience.failed(BrokerBusy(f"held for {second} s"))
        clock.advance(1_000)
    patience.failed(BrokerFull("no room"))
    patience.worked(began + 60)
    patience.worked(began + 61)
    patience.failed(BrokerFull("no room"))
    assert told == [
        BrokerTrouble("BrokerBusy", "held for 0 s", FIRST_RETRY_SECONDS),
        BrokerTrouble("BrokerFull", "no room", LONGEST_RETRY_SECONDS),
        BrokerBack(60),
        BrokerTrouble("BrokerFull", "no room", FIRST_RETRY_SECONDS),
    ]


def test_each_failure_in_a_row_is_waited_out_for_longer_up_to_a_limit() -> None:
    clock = ManualClock()
    patience = Patience(clock, lambda _: None)
    waits = []
    for _ in range(10):
        patience.failed(BrokerBusy("held"))
        assert not patience.allows(clock.monotonic())
        assert patience.allows(patience.retry_at)
        waits.append(patience.retry_at - clock.monotonic())
    assert waits == sorted(waits)
    assert waits[0] < waits[1] < waits[-1] == pytest.approx(LONGEST_RETRY_SECONDS)


def test_damage_is_not_waited_out() -> None:
    patience = Patience(ManualClock(), lambda _: None)
    with pytest.raises(BrokerDamaged, match="the file is damaged"):
        patience.failed(BrokerDamaged("the file is damaged"))
