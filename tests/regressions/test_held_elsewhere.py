"""Failures of others that a test elsewhere holds: each is run here on its fault, and must find it.

Owns: which test holds which failure, and what it says of it.
Must never: hold a rule of its own: as they are, these tests run where they stand.
"""

import inspect
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from dibs.brokers.contract import Broker
from dibs.brokers.sqlite import open_sqlite
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness
from tests.conformance.test_sqlite import TestSqliteBroker as Suite
from tests.regressions.seeding import must_find
from tests.unit import test_producer
from tests.unit.redis import test_trouble
from tests.unit.sqlite import test_lock
from tests.worker import test_faults, test_pump, test_worker

# What forks a program that has threads is the caller's decision, and newer Pythons warn of it.
# A fault may leave a thread waiting, whose own assertion then fails too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Held(NamedTuple):
    """A failure by its numbers, the test that holds it, its fault, and what the test then says.

    `given` are the parameters that the test has beside its fixtures.
    """

    numbers: str
    test: Callable[..., None]
    fault: str
    finding: str
    given: Mapping[str, object] = MappingProxyType({})


HELD = [
    Held(
        "b38",
        test_trouble.test_b38_a_bell_whose_connection_dies_alone_is_hung_up_again,
        "listens_once",
        "assert not True",
    ),
    Held(
        "b04",
        test_faults.test_a_killed_runner_is_replaced_and_its_jobs_come_back_at_once,
        "acks_what_a_dead_runner_ran",
        "4 x start",
    ),
    Held(
        "b07",
        test_worker.test_a_stop_lets_the_running_finish_and_returns_the_unstarted,
        "forgets_acks_when_stopped",
        r"\(\d+, 0, 2, 0\) == \(\d+, 0, 0, 0\)",
        {"number": signal.SIGTERM},
    ),
    Held(
        "b10",
        test_producer.test_a_fork_while_another_thread_has_the_door,
        "inherits_the_door",
        "assert 14 == 0",
    ),
    Held(
        "b11",
        test_lock.test_law_10_a_call_ends_within_a_sixth_of_the_shortest_visibility_timeout,
        "waits_as_long_as_it_takes",
        "a sixth of a second and not four",
    ),
    Held(
        "b14",
        BrokerConformance.test_rule_17_a_step_of_the_wall_clock_moves_no_lease,
        "leases_by_wall_clock",
        r"assert \[Lease.* == \[\]",
        {"step_ms": 24 * 3_600_000},
    ),
    Held(
        "b18, b33",
        BrokerConformance.test_rule_23_what_a_dead_holder_left_is_granted_at_its_expiry,
        "pops",
        "assert 0 == 20",
    ),
    Held(
        "b24",
        test_faults.test_a_blocked_loop_and_a_held_interpreter_keep_their_leases,
        "never_renews",
        r"not within 5 s: \(0, 0, 0, 0\)",
    ),
    Held(
        "b26, b35",
        test_faults.test_the_jobs_of_a_killed_worker_come_back_after_the_visibility_timeout,
        "rescues_late",
        r"assert [\d.]+ < \(\(",
    ),
    Held(
        "b28",
        test_lock.test_a_process_stopped_inside_a_commit_is_named_and_stops_nobody_once_dead,
        "keeps_the_lock_of_the_dead",
        "whoever had it has not given it up",
    ),
    Held(
        "b30, b39",
        test_pump.test_a_lease_is_renewed_at_a_third_of_its_visibility_timeout,
        "never_renews",
        r"assert \[Lease.* == \[\]",
    ),
    Held(
        "b31",
        test_pump.test_a_dead_runner_charges_what_it_ran_and_frees_what_it_had_queued,
        "strands_what_was_queued",
        "released=0",
    ),
    Held(
        "b42",
        test_pump.test_an_unknown_task_goes_back_uncounted_and_is_told_once,
        "discards_what_it_does_not_know",
        r"\(0, 0, 0, 3\) == \(0, 3, 0, 0\)",
    ),
    Held(
        "b43",
        test_pump.test_chores_that_fail_are_told_and_end_no_worker,
        "dies_of_trouble",
        "the disk does not answer",
    ),
    Held(
        "b44, b49",
        BrokerConformance.test_rule_09_a_settlement_with_an_old_fence_changes_nothing,
        "acks_by_id_alone",
        r"Applied\(late=False\) == Stale\(\)",
        {"way": "ran out", "outcome": "ack"},
    ),
    Held(
        "b48",
        BrokerConformance.test_rule_10_what_was_acknowledged_never_comes_back,
        "acks_in_memory",
        r"assert \[Lease.* == \[\]",
        {"late": False},
    ),
]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(partial(open_at, tmp_path / "queue.db"))
    yield harness
    harness.close()


def open_at(path: Path, clock: Clock) -> Broker:
    return open_sqlite(path, clock=clock, worker_id=os.urandom(16))


@pytest.mark.parametrize("held", HELD, ids=[f"{one.numbers} {one.fault}" for one in HELD])
def test_the_test_that_holds_it_finds_the_fault(
    held: Held, harness: Harness, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(inspect.signature(held.test).parameters)
    of_the_suite = {"self": Suite, "harness": lambda: harness, "broker": harness.open}

    def given(name: str) -> object:
        if name in held.given:
            return held.given[name]
        if "self" in names and name in of_the_suite:
            return of_the_suite[name]()
        return request.getfixturevalue(name)

    monkeypatch.setattr(test_producer, "PATIENCE", 1.0)  # what a fault leaves hanging hangs as long
    must_find(held.fault, held.finding, held.test, names, given)
