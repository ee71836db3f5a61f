"""The pump in virtual time: every rule of a tick, with scripted runners on the memory broker."""

import select
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from dibs.backoff import exponential, fixed
from dibs.brokers.contract import (
    MIN_VISIBILITY_TIMEOUT_MS,
    UNKNOWN,
    Broker,
    Claim,
    Extended,
    Settled,
    Unknown,
)
from dibs.errors import BrokerBusy, BrokerRefused, BrokerUnavailable
from dibs.events import (
    BrokerBack,
    BrokerTrouble,
    Holding,
    JobFailed,
    LeaseLost,
    RunnerCondemned,
    RunnerDied,
    RunnerNotStarted,
    TaskSlow,
    TaskUnknown,
)
from dibs.message import DeadLetter, Error, Lease, Nack, Release, Settlement, TaskInfo
from dibs.runners.contract import Await, Slow, Start
from dibs.testing.making import claim, message, messages, publish
from dibs.worker.upkeep import STOP_GRACE_SECONDS
from tests.worker.scripted import HEAVY, PLAIN, SILENT, ScriptedRunner, Stage

FAILED = Nack(60_000, Error("ValueError", "no"))


def is_rung(broker: Broker) -> bool:
    return bool(select.select([broker.bell()], [], [], 0)[0])


def starts(runner: ScriptedRunner) -> list[Start | Await]:
    return [frame for frame in runner.got if isinstance(frame, Start | Await)]


def test_a_claim_asks_for_the_free_slots_and_no_more() -> None:
    stage = Stage()
    publish(stage.producer, *messages(10))
    stage.tick()
    assert len(stage.runners[0].queued) == 4
    assert stage.counts() == (6, 0, 4, 0)


def test_a_finished_job_is_gone_and_its_slot_is_filled_in_the_same_tick() -> None:
    stage = Stage()
    publish(stage.producer, *messages(5))
    stage.tick()
    stage.runners[0].finish(0)
    stage.tick()
    assert stage.counts() == (0, 0, 4, 0)
    assert stage.settled().done == 1


def test_how_many_jobs_are_held_is_told_when_it_has_changed() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2))
    stage.tick()
    stage.runners[0].start()
    stage.tick(5_000)
    stage.runners[0].finish(0)
    stage.tick()
    stage.runners[0].finish(1)
    stage.tick()
    stage.tick(5_000)
    assert stage.told(Holding) == [Holding(2), Holding(1), Holding(0)]


def test_a_ring_alone_hands_out_and_what_runners_say_is_heard_by_the_next_tick() -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    stage.runners[0].finish(0)
    publish(stage.producer, message())
    stage.pump.tick(rung=True, alone=True)
    assert stage.runners[0].queued == [1]
    assert stage.settled().done == 0
    stage.pump.tick(rung=False)
    assert stage.settled().done == 1


def test_jobs_that_come_one_by_one_go_to_the_runner_with_most_room() -> None:
    stage = Stage(slots=(4, 4))
    for _ in range(6):
        publish(stage.producer, message())
        stage.tick()
    assert [len(runner.queued) for runner in stage.runners] == [3, 3]


def test_what_does_not_divide_goes_to_the_runner_with_most_room() -> None:
    stage = Stage(slots=(1, 6))
    publish(stage.producer, *messages(7))
    stage.tick()
    assert [len(runner.queued) for runner in stage.runners] == [1, 6]


def test_what_a_blocked_runner_does_not_start_goes_to_another() -> None:
    stage = Stage(slots=(4, 4))
    publish(stage.producer, *messages(2))
    stage.tick()
    blocked, free = stage.runners
    blocked.start()
    free.start()
    free.finish(*free.at)
    publish(stage.producer, *messages(5))
    stage.tick()
    free.start()
    assert len(blocked.queued) == 2
    stage.tick(501)
    stage.tick(501)
    assert blocked.withdrawals() == 1
    for serial in list(blocked.queued):
        blocked.end(serial, Release())
    stage.tick()
    free.start()
    assert blocked.queued == []
    assert len(free.at) == 4, "all its room"
    stage.tick(1_000)
    assert len(blocked.queued) == 1, "after a while it is tried with one job"
    blocked.start()
    stage.tick(501)
    publish(stage.producer, *messages(2))
    stage.tick()
    assert len(blocked.queued) == 2, "it has started the one, so it is blocked no more"


def test_a_runner_that_starts_what_it_is_given_is_not_taken_for_blocked() -> None:
    stage = Stage(slots=(40,))
    for _ in range(30):
        publish(stage.producer, message())
        stage.tick(50)  # so that one was given just now, whenever somebody looks
        if older := stage.runners[0].queued[:-1]:
            stage.runners[0].start(*older)
    assert stage.runners[0].withdrawals() == 0
    assert len(stage.runners[0].at) == 29


def test_a_job_that_a_runner_never_starts_is_given_back_and_the_runner_replaced() -> None:
    stage = Stage()
    publish(stage.producer, message(timeout_ms=5_000))
    stage.tick()
    for _ in range(20):
        stage.tick(1_000)
    assert stage.settled().released == 1
    assert stage.settled().failed == 0, "it never ran"
    assert len(stage.runners) > 1


def test_a_runner_that_cannot_be_started_is_started_later_and_ends_no_worker() -> None:
    stage = Stage()
    stage.spawn_error = BlockingIOError(11, "Resource temporarily unavailable")
    stage.runners[0].die()
    for _ in range(5):
        stage.tick(100)
    assert len(stage.told(RunnerNotStarted)) in (2, 3), "later each time"
    assert len(stage.runners) == 1
    stage.spawn_error = None
    publish(stage.producer, message())
    for _ in range(20):
        stage.tick(100)
    assert sum(len(runner.queued) for runner in stage.runners[1:]) == 1


def test_a_job_before_process_jobs_is_found_behind_them_within_a_second() -> None:
    stage = Stage(PLAIN, HEAVY)
    publish(stage.producer, *messages(9, queue="videos", task="transcode"))
    for _ in range(4):
        stage.tick()
    publish(stage.producer, message("videos", priority=9))
    stage.tick()
    assert stage.runners[0].queued == []
    stage.tick(1_000)
    assert len(stage.runners[0].queued) == 1
    assert stage.settled().failed == 0


def test_several_runners_share_a_claim_by_their_room() -> None:
    stage = Stage(slots=(4, 2))
    publish(stage.producer, *messages(6))
    stage.tick()
    assert [len(runner.queued) for runner in stage.runners] == [4, 2]


def test_a_lease_is_renewed_at_a_third_of_its_visibility_timeout() -> None:
    stage = Stage()
    publish(stage.producer, message(visibility_timeout_ms=30_000))
    until = stage.tick()
    stage.runners[0].start()
    assert until is not None
    for _ in range(12):
        stage.tick(9_999)
        stage.tick(1)
    thief = stage.open(b"thief")
    assert claim(thief) == []


def test_a_silent_task_is_not_renewed_and_is_lost_to_the_next_claim() -> None:
    stage = Stage(SILENT)
    publish(stage.producer, message(task="silent", visibility_timeout_ms=30_000))
    stage.tick()
    stage.runners[0].start()
    stage.tick(29_000)
    thief = stage.open(b"thief")
    assert claim(thief) == []
    stage.clock.advance(1_000)
    [lease] = claim(thief)
    assert (lease.fence, lease.lost) == (2, 1)
    stage.runners[0].finish(0)
    stage.tick()
    assert stage.settled().done == 0
    assert [event.ran for event in stage.told(LeaseLost)] == [True]


def test_a_job_whose_lease_is_lost_is_told_at_the_next_heartbeat() -> None:
    stage = Stage()
    publish(stage.producer, message(visibility_timeout_ms=30_000))
    stage.tick()
    stage.runners[0].start()
    stage.clock.advance(30_000)
    [stolen] = claim(stage.open(b"thief"))
    stage.tick()
    assert [(stop.serial, stop.reason) for stop in stage.runners[0].stops()] == [(0, "lease_lost")]
    stage.runners[0].finish(0)
    stage.tick()
    assert stage.settled().done == 0
    assert stage.pump.held == 0
    assert stolen.fence == 2


def test_a_run_past_its_timeout_is_told_and_its_own_end_counts_as_a_failure() -> None:
    stage = Stage()
    publish(stage.producer, message(timeout_ms=5_000, max_attempts=2))
    stage.tick()
    stage.runners[0].start()
    stage.tick(4_999)
    assert stage.runners[0].stops() == []
    stage.tick(1)
    assert [(stop.serial, stop.reason) for stop in stage.runners[0].stops()] == [(0, "timeout")]
    stage.runners[0].end(0, FAILED)
    stage.tick()
    assert stage.counts() == (0, 1, 0, 0)
    assert stage.told(RunnerCondemned) == []


def test_a_run_that_does_not_end_is_failed_and_its_process_replaced() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2, timeout_ms=5_000), message(timeout_ms=60_000))
    stage.tick()
    first = stage.runners[0]
    first.start()
    first.finish(1)
    stage.tick(5_000)
    stage.tick(round(STOP_GRACE_SECONDS * 1_000))
    assert len(stage.told(RunnerCondemned)) == 1
    assert stage.settled().failed == 1
    publish(stage.producer, *messages(9))
    stage.tick()
    shared = [runner for runner in stage.runners if runner.slots > 1]
    assert [len(runner.queued) for runner in shared] == [0, 4]
    assert not first.killed
    first.finish(2)
    stage.tick()
    assert first.killed


def test_a_run_that_does_not_end_is_tried_again_after_the_backoff_of_its_task() -> None:
    stage = Stage(TaskInfo("resize", "photos", "async", True, 0, "app.py:1", fixed(77)))
    publish(stage.producer, message(timeout_ms=5_000))
    stage.tick()
    stage.runners[0].start()
    stage.tick(5_000)
    stage.tick(round(STOP_GRACE_SECONDS * 1_000))
    [failed] = stage.told(JobFailed)
    assert isinstance(failed.outcome, Nack)
    assert failed.outcome.delay_ms == 77_000


def test_the_timeout_counts_from_the_start_of_the_run() -> None:
    stage = Stage()
    publish(stage.producer, message(timeout_ms=5_000))
    stage.tick()
    stage.tick(4_000)
    stage.runners[0].start()
    stage.tick(4_999)
    assert stage.runners[0].stops() == []
    stage.tick(1)
    assert len(stage.runners[0].stops()) == 1


def test_a_task_near_a_limit_is_told_of_once_whichever_runners_say_so() -> None:
    stage = Stage(slots=(4, 4))
    near = Slow("resize", "timeout", 0.9, 1.0)
    for runner in stage.runners:
        runner.out.append(near)
    stage.tick()
    stage.runners[0].die()
    stage.tick(1_000)
    stage.runners[-1].out.append(near)
    stage.tick()
    assert stage.told(TaskSlow) == [TaskSlow("resize", "timeout", 0.9, 1.0, 2)]


def test_a_task_is_told_of_for_each_option_and_not_for_each_value_of_it() -> None:
    stage = Stage()
    said = [
        Slow("resize", "timeout", 0.9, 1.0),
        Slow("resize", "visibility_timeout", 0.9, 1.0),
        Slow("silent", "timeout", 0.9, 1.0),
    ]
    stage.runners[0].out += [*said, Slow("resize", "timeout", 1.8, 2.0)]
    stage.tick()
    told = [(slow.task, slow.option, slow.limit_seconds) for slow in stage.told(TaskSlow)]
    assert told == [(slow.task, slow.option, slow.limit_seconds) for slow in said]


def test_what_is_held_is_told_down_to_nothing_by_an_unfinished_stop() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2))
    stage.tick()
    stage.pump.stop()
    stage.pump.abandon()
    assert [event.jobs for event in stage.told(Holding)][-1] == 0


def test_a_dead_runner_charges_what_it_ran_and_frees_what_it_had_queued() -> None:
    stage = Stage()
    publish(stage.producer, *messages(4))
    stage.tick()
    stage.runners[0].start(0, 1)
    stage.runners[0].die()
    stage.tick()
    assert stage.settled() == type(stage.settled())(crashed=2, released=2)
    [died] = stage.told(RunnerDied)
    assert (died.running, died.queued, died.status) == (2, 2, "signal SIGSEGV")
    assert len(stage.runners) >= 2


def test_an_outcome_that_a_runner_sent_before_it_died_is_no_crash() -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    runner = stage.runners[0]
    runner.start()
    runner.finish(0)
    runner.at[0] = 0.0
    runner.die()
    stage.tick()
    assert stage.settled().done == 1
    assert stage.settled().crashed == 0


def test_a_suspect_runs_alone_and_only_its_own_crash_is_charged_again() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2, max_crashes=3))
    stage.tick()
    stage.runners[0].start()
    stage.runners[0].die()
    for _ in range(4):
        stage.tick()
    solos = [runner for runner in stage.runners if runner.slots == 1]
    busy = [runner for runner in solos if runner.queued]
    assert len(busy) == 2
    guilty, innocent = busy
    guilty.start()
    innocent.start()
    guilty.die()
    innocent.finish(*innocent.at)
    for _ in range(4):
        stage.tick()
    again = next(r for r in stage.runners if r.slots == 1 and r.queued)
    again.start()
    again.die()
    stage.tick()
    assert stage.settled().done == 1
    [dead] = stage.broker.inspector().dead()
    assert (dead.reason, dead.crashes) == ("max_crashes", 3)


def test_of_the_suspects_the_one_that_began_last_goes_last() -> None:
    stage = Stage(solos=1)
    publish(stage.producer, *messages(3))
    stage.tick()
    shared = stage.runners[0]
    for serial in (0, 2, 1):
        shared.start(serial)
        stage.clock.advance(1)
    shared.die()
    order = []
    for _ in range(20):
        stage.tick()
        for solo in stage.runners:
            if solo.slots == 1 and solo.queued:
                order += [lease.receipt for lease in starts(solo)[-1].leases]
                solo.start()
                solo.finish(*solo.at)
    first, second, third = (lease.receipt for lease in starts(shared)[0].leases)
    assert order == [first, third, second]


def test_a_spare_solo_runner_is_started_when_the_worker_has_settled() -> None:
    stage = Stage()
    stage.tick(1_999)
    assert [runner.slots for runner in stage.runners] == [4]
    stage.tick(1)
    assert [runner.slots for runner in stage.runners] == [4, 1]
    stage.pump.stop()
    stage.runners[1].die()
    stage.tick(60_000)
    assert len(stage.runners) == 2


def test_what_a_dead_runner_was_running_goes_on_at_once_in_the_spare() -> None:
    stage = Stage(slots=(4, 4))
    stage.tick(2_000)
    stage.tick()
    publish(stage.producer, message())
    stage.tick()
    busy = next(runner for runner in stage.runners if runner.queued)
    busy.start()
    busy.die()
    stage.tick()
    stage.tick()
    assert [runner.slots for runner in stage.runners if runner.queued] == [1]


def test_a_poison_pill_does_not_stop_its_neighbours() -> None:
    stage = Stage()
    publish(stage.producer, *messages(1, max_crashes=1), *messages(8))
    stage.tick()
    stage.runners[0].start(0)
    stage.runners[0].die()
    for _ in range(20):
        stage.tick()
        for runner in stage.runners:
            if runner.how is None and runner.queued:
                runner.start()
                runner.finish(*runner.at)
    assert stage.settled().done == 8
    assert stage.counts()[3] == 1


def test_a_process_task_gets_a_runner_of_its_own_and_is_not_hoarded() -> None:
    stage = Stage(PLAIN, HEAVY)
    publish(stage.producer, *messages(9, queue="videos", task="transcode"))
    for _ in range(4):
        stage.tick()
    assert len(stage.runners[0].queued) == 0
    solos = [runner for runner in stage.runners if runner.slots == 1]
    assert [len(runner.queued) for runner in solos] == [1, 1]
    ready, _, in_flight, _ = stage.counts("videos")
    assert (ready, in_flight) == (5, 4)
    publish(stage.producer, message())
    stage.tick()
    assert len(stage.runners[0].queued) == 1


def test_an_unknown_task_goes_back_uncounted_and_is_told_once() -> None:
    stage = Stage()
    publish(stage.producer, *messages(3, task="of_tomorrow"))
    stage.tick()
    assert stage.counts() == (0, 3, 0, 0)
    assert len(stage.told(TaskUnknown)) == 1
    stage.tick(1_000)
    assert claim(stage.producer, limit=1) == []
    assert stage.told(JobFailed) == []


def test_an_unknown_version_is_a_dead_letter_with_its_bytes() -> None:
    stage = Stage()
    publish(stage.producer, message(version=9, args=b"\x00\xff"))
    stage.tick()
    [dead] = stage.broker.inspector().dead()
    assert (dead.reason, dead.message.args) == ("unknown_version", b"\x00\xff")


def test_a_used_up_loss_budget_is_a_dead_letter_and_not_a_run() -> None:
    stage = Stage()
    publish(stage.producer, message(max_lost=1, visibility_timeout_ms=MIN_VISIBILITY_TIMEOUT_MS))
    assert len(claim(stage.producer)) == 1
    stage.tick(MIN_VISIBILITY_TIMEOUT_MS)
    [dead] = stage.broker.inspector().dead()
    assert (dead.reason, dead.lost) == ("max_lost", 1)
    assert stage.runners[0].queued == []


def test_quick_jobs_are_given_ahead_and_taken_back_when_the_runner_falls_silent() -> None:
    stage = Stage()
    publish(stage.producer, *messages(500))
    runner = stage.runners[0]
    for _ in range(20):
        stage.tick(1)
        runner.start(*runner.queued[:10])
        runner.finish(*runner.at)
    assert len(runner.queued) > 20
    stage.tick(1)
    stage.tick(200)
    assert runner.withdrawals() == 1


def test_coroutines_go_to_the_event_loop_directly_and_functions_to_the_threads() -> None:
    plain = TaskInfo("invoice", "photos", "thread", True, 0, "app.py:4", exponential())
    stage = Stage(PLAIN, plain, slots=(8,))
    tasks = ["resize", "invoice", "invoice", "resize", "invoice"]
    publish(stage.producer, *[message(task=task) for task in tasks])
    stage.tick()
    by_link = {
        type(frame): [lease.message.task for lease in frame.leases]
        for frame in starts(stage.runners[0])
    }
    assert by_link == {Await: ["resize"] * 2, Start: ["invoice"] * 3}
    stage.runners[0].start()
    stage.runners[0].finish(*stage.runners[0].at)
    stage.tick()
    assert stage.settled().done == 5


def test_what_a_runner_may_hold_comes_in_halves_so_that_it_works_while_the_pump_does() -> None:
    stage = Stage()
    publish(stage.producer, *messages(500))
    runner = stage.runners[0]
    stage.tick()
    runner.start()
    runner.finish(*runner.at)  # four in a millisecond: eighty in the time that is given ahead
    held = []
    for _ in range(3):
        stage.tick()
        held.append(len(runner.queued))
    assert held == [42, 84, 84]


def rung_without_room() -> tuple[Stage, Broker]:
    """Return a stage whose pump lost its room before it was rung, and another who waits."""
    stage = Stage()
    stage.broker.bell()
    stage.tick()
    other = stage.open(b"other")
    other.bell()
    assert claim(other, limit=2) == []
    stage.runners[0].die()
    stage.pump.tick(rung=False)
    publish(stage.producer, message())
    return stage, other


def test_who_is_rung_and_has_lost_its_room_leaves_the_ring_to_another() -> None:
    """Else what it is rung for, or handed with a ring, waits until there is room here."""
    stage, other = rung_without_room()
    assert [is_rung(stage.broker), is_rung(other)] == [True, False]
    assert stage.pump.listens()
    stage.pump.tick(rung=True, alone=True)
    assert is_rung(other)
    assert not stage.pump.listens()
    assert stage.counts() == (1, 0, 0, 0)


def test_stopping_claims_nothing_and_takes_back_what_waits() -> None:
    stage = Stage(PLAIN, HEAVY)
    publish(stage.producer, *messages(2), *messages(4, queue="videos", task="transcode"))
    stage.tick()
    stage.pump.stop()
    assert stage.runners[0].withdrawals() == 1
    publish(stage.producer, message())
    held = stage.pump.held
    stage.tick()
    assert stage.pump.held < held
    assert stage.counts()[0] == 1


def test_what_is_abandoned_is_released_and_nothing_is_counted() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2))
    stage.tick()
    stage.runners[0].start(0)
    stage.pump.stop()
    assert stage.pump.abandon() == 2
    first, second = claim(stage.producer, limit=2)
    assert [(lease.attempt, lease.fence) for lease in (first, second)] == [(1, 2), (1, 2)]


def busy_at_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the broker be busy when it is told for the first time that nothing is wanted."""
    claim, busy = stage.broker.claim, [BrokerBusy("held")]

    def claiming(queues: Sequence[str], limit: int) -> Claim:
        if not limit and busy:
            raise busy.pop()
        return claim(queues, limit)

    monkeypatch.setattr(stage.broker, "claim", claiming)


def test_a_broker_that_was_busy_is_told_later_that_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what it was rung for, or handed with the ring, lies until its lease runs out."""
    stage, other = rung_without_room()
    busy_at_first(stage, monkeypatch)
    stage.pump.tick(rung=True, alone=True)
    assert not is_rung(other)
    stage.clock.advance(50)
    stage.pump.tick(rung=False, alone=True)
    assert is_rung(other)


def test_room_that_there_is_again_is_used_and_nothing_declined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, _ = rung_without_room()
    busy_at_first(stage, monkeypatch)
    stage.pump.tick(rung=True, alone=True)
    for _ in range(2):  # another runner is started, and is ready
        stage.tick(100)
    assert stage.counts() == (0, 0, 1, 0)


def test_a_broker_that_still_asks_after_a_full_claim_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Something may be handed to it all the same, which would lie until its lease runs out."""
    stage = Stage()
    granted, limits = stage.broker.claim, list[int]()

    def claiming(queues: Sequence[str], limit: int) -> Claim:
        limits.append(limit)
        return replace(granted(queues, limit), still_asks=len(limits) < 3)

    monkeypatch.setattr(stage.broker, "claim", claiming)
    publish(stage.producer, *messages(4))
    for _ in range(2):
        assert stage.pump.tick(rung=len(limits) == 0) == stage.clock.monotonic()
    for _ in range(2):
        stage.pump.tick(rung=False)
    assert limits == [4, 0, 0]


def test_a_stopping_worker_is_not_over_before_the_broker_has_heard_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    busy_at_first(stage, monkeypatch)
    stage.pump.stop()
    stage.pump.tick(rung=False)
    assert (stage.pump.held, stage.pump.over) == (0, False)
    stage.clock.advance(50)
    stage.pump.tick(rung=False)
    assert stage.pump.over
    assert len(stage.told(BrokerBack)) == 1


def test_drained_is_said_only_after_a_look_with_nothing_held() -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    assert not stage.pump.drained
    stage.runners[0].finish(0)
    publish(stage.producer, message())
    stage.tick()
    assert not stage.pump.drained
    stage.runners[0].finish(1)
    stage.tick()
    assert stage.pump.drained


def test_answers_that_get_lost_are_asked_for_again_later_and_not_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    stage.runners[0].start()
    asked: list[int] = []

    def lost(settlements: Sequence[object]) -> list[Unknown]:
        asked.append(len(settlements))
        return [UNKNOWN] * len(settlements)

    with monkeypatch.context() as patch:
        patch.setattr(stage.broker, "settle", lost)
        stage.runners[0].finish(0)
        until = stage.tick()
        assert asked == [1]
        assert until is not None
        assert until > stage.clock.monotonic()
        assert len(stage.told(BrokerTrouble)) == 1
    stage.tick(10_000)
    assert stage.settled().done == 1
    assert len(stage.told(BrokerBack)) == 1


def test_where_nobody_answers_one_batch_of_settlements_a_tick_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them would take longer than the lease lasts that is to be renewed meanwhile."""
    stage = Stage()
    monkeypatch.setattr(stage.pump.settler, "_limit", 1)
    publish(stage.producer, *messages(8, visibility_timeout_ms=30_000))
    stage.tick()
    stage.runners[0].start()
    running = len(stage.runners[0].at) - 1

    def silent(settlements: Sequence[object]) -> list[Unknown]:
        stage.clock.advance(4_500)
        return [UNKNOWN] * len(settlements)

    with monkeypatch.context() as patch:
        patch.setattr(stage.broker, "settle", silent)
        for serial in range(running):
            stage.runners[0].finish(serial)
        stage.tick(1_000)
        stage.tick(1_000)
    stage.tick(5_000)
    assert stage.told(LeaseLost) == []
    assert (stage.settled().done, stage.settled().late) == (running, 0)


def test_a_renewal_whose_answer_got_lost_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    publish(stage.producer, message(visibility_timeout_ms=30_000))
    stage.tick()
    stage.runners[0].start()
    with monkeypatch.context() as patch:
        patch.setattr(stage.broker, "extend", lambda leases: [UNKNOWN] * len(leases))
        stage.tick(10_000)
    stage.tick(5_000)
    stage.clock.advance(20_000)
    assert claim(stage.open(b"thief")) == [], (
        "renewed 15 s after it was claimed, and not only at 20"
    )


@pytest.mark.parametrize("busy", [False, True])
def test_trouble_with_the_broker_is_over_as_soon_as_it_is_over(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    stage = Stage()
    if busy:
        publish(stage.producer, message(visibility_timeout_ms=3_600_000))
        stage.tick()
        stage.runners[0].start()

    def fails(*_: object) -> None:
        stage.clock.advance(4_000)  # as long as a lock is waited for
        raise BrokerBusy("held")

    with monkeypatch.context() as patch:
        patch.setattr(stage.broker, "claim", fails)
        until = stage.tick(1_000)
    assert until is not None
    assert until - stage.clock.monotonic() < 1
    publish(stage.producer, message())
    stage.clock.advance(1_000)
    stage.pump.tick(rung=False)
    assert len(stage.runners[0].queued) == 1


def test_suspects_beyond_the_slots_of_a_worker_stay_in_the_broker() -> None:
    stage = Stage()
    publish(stage.producer, *messages(20, visibility_timeout_ms=1_000))
    dying = stage.open(b"dying")
    for _ in range(2):
        assert len(claim(dying, limit=20)) == 20
        stage.clock.advance(1_000)
    for _ in range(10):
        stage.tick()
    assert stage.counts() == (0, 14, 6, 0), "two run, four wait"


def test_a_silent_task_that_waits_for_a_runner_is_renewed_until_it_begins() -> None:
    silent = replace(HEAVY, heartbeat=False)
    stage = Stage(silent, solos=1)
    heavy = messages(2, task="transcode", queue="videos", visibility_timeout_ms=3_000)
    publish(stage.producer, *heavy)
    for _ in range(3):
        stage.tick()
    solo = next(runner for runner in stage.runners if runner.slots == 1)
    solo.start()
    for _ in range(10):
        stage.tick(1_000)
    seen = [stage.broker.inspector().job(one.id) for one in heavy]
    lost = sorted(view.lost for view in seen if view is not None)
    assert lost == [0, 1], "the one that is running was lost, and not the one that waits"


def test_the_broker_does_its_chores_at_the_second_look_that_finds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    chores: list[None] = []
    monkeypatch.setattr(stage.broker, "idle", lambda: chores.append(None))
    publish(stage.producer, message())
    stage.tick()
    stage.runners[0].finish(0)
    stage.tick()
    assert not chores
    stage.tick(1_000)
    assert chores


def test_chores_that_fail_are_told_and_end_no_worker() -> None:
    stage = Stage()
    chores = [BrokerUnavailable("the disk does not answer")]

    def idle() -> None:
        if chores:
            raise chores.pop()

    stage.broker.idle = idle
    for _ in range(3):
        stage.tick(1_000)
    assert chores == []
    assert [trouble.kind for trouble in stage.told(BrokerTrouble)] == ["BrokerUnavailable"]
    publish(stage.producer, message())
    stage.tick()
    assert len(stage.runners[0].queued) == 1


def test_a_failing_job_is_told_with_its_error_and_its_outcome() -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    outcome = DeadLetter("max_attempts", Error("ValueError", "no"), "failure")
    stage.runners[0].end(0, outcome)
    stage.tick()
    [failed] = stage.told(JobFailed)
    assert failed.outcome == outcome
    assert stage.settled().dead == 1


@pytest.mark.parametrize(
    ("refused", "kind"), [(False, "BrokerUnavailable"), (True, "BrokerRefused")]
)
def test_a_settlement_that_stays_unanswered_holds_up_no_other_job(
    refused: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    failing, healthy = publish(stage.producer, *messages(2, visibility_timeout_ms=30_000))
    stage.tick()
    stage.runners[0].start(0, 1)
    settle = stage.broker.settle

    def never_of_a_failure(settlements: Sequence[Settlement]) -> list[Settled]:
        if refused and any(isinstance(one.outcome, Nack) for one in settlements):
            raise BrokerRefused("no dead letters here")
        return [
            UNKNOWN if isinstance(one.outcome, Nack) else settle([one])[0] for one in settlements
        ]

    monkeypatch.setattr(stage.broker, "settle", never_of_a_failure)
    stage.runners[0].end(0, FAILED)
    for _ in range(20):
        stage.tick(1_000)
    publish(stage.producer, message())
    stage.tick()
    assert len(stage.runners[0].queued) == 1, "a new job"
    for _ in range(20):
        stage.tick(1_000)
    assert healthy.id not in {event.lease.message.id for event in stage.told(LeaseLost)}
    assert [event.kind for event in stage.told(BrokerTrouble)] == [kind]
    assert failing.id != healthy.id


def test_a_settlement_that_fails_alone_is_told_with_its_reason_and_leaves_all_else_going_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy that is throttled or too large: the leases beside it would run out, and run twice."""
    stage = Stage()
    failing = message(visibility_timeout_ms=100_000)
    publish(stage.producer, failing, *messages(2, visibility_timeout_ms=3_000))
    stage.tick()
    stage.runners[0].start()
    settle = stage.broker.settle

    def throttles_copies(settlements: Sequence[Settlement]) -> list[Settled]:
        throttled = Unknown("KMS.ThrottlingException")
        copied = [isinstance(one.outcome, Nack) for one in settlements]
        pairs = zip(settlements, copied, strict=True)
        return [throttled if copy else settle([one])[0] for one, copy in pairs]

    monkeypatch.setattr(stage.broker, "settle", throttles_copies)
    stage.runners[0].end(0, FAILED)
    stage.runners[0].finish(1)
    for _ in range(60):
        stage.tick(500)
    assert stage.settled().done == 1
    assert stage.told(LeaseLost) == []
    assert stage.counts() == (0, 0, 2, 0)
    publish(stage.producer, message("videos"))
    stage.tick()
    assert len(stage.runners[0].queued) == 1
    assert [event.text for event in stage.told(BrokerTrouble)] == ["KMS.ThrottlingException"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_renewal_that_stays_unanswered_is_told_with_its_reason_and_costs_no_other_lease(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """A queue that is gone, say: claimed in one batch with others, or in one of its own."""
    stage = Stage()
    has = stage.broker.capabilities
    monkeypatch.setattr(stage.broker, "capabilities", replace(has, native_fence=False))
    (failing,) = publish(stage.producer, message(visibility_timeout_ms=100_000))
    if whole:
        stage.tick()
    publish(stage.producer, *messages(2, visibility_timeout_ms=3_000))
    stage.tick()
    stage.runners[0].start()
    extend = stage.broker.extend

    def fails_of_one(leases: Sequence[Lease]) -> list[Extended]:
        gone = Unknown("QueueDeletedRecently")
        return [gone if one.message.id == failing.id else extend([one])[0] for one in leases]

    monkeypatch.setattr(stage.broker, "extend", fails_of_one)
    for _ in range(90):
        stage.tick(1_000)
    assert stage.told(LeaseLost) == []
    publish(stage.producer, message("videos"))
    stage.tick()
    assert len(stage.runners[0].queued) == 1, "claimed at once"
    for _ in range(20):
        stage.tick(1_000)
    assert [one.lease.message.id for one in stage.told(LeaseLost)] == [failing.id]
    assert [event.text for event in stage.told(BrokerTrouble)] == ["QueueDeletedRecently"]
    stage.runners[0].finish(0)
    stage.tick(3_000)
    assert len(stage.told(BrokerBack)) == 1


def test_what_stays_unanswered_is_no_sign_that_the_broker_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    publish(stage.producer, message())
    stage.tick()
    stage.runners[0].start()

    def away(*_: object) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(stage.broker, "settle", lambda ends: [UNKNOWN] * len(ends))
    monkeypatch.setattr(stage.broker, "claim", away)
    stage.runners[0].finish(0)
    for _ in range(20):
        stage.tick(1_000)
    assert stage.told(BrokerBack) == []


def test_what_the_broker_leaves_unanswered_takes_up_room(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    monkeypatch.setattr(stage.broker, "settle", lambda ends: [UNKNOWN] * len(ends))
    publish(stage.producer, *messages(1_000, visibility_timeout_ms=3_600_000))
    runner = stage.runners[0]
    for _ in range(50):
        stage.tick(1_000)
        runner.start()
        for serial in list(runner.at):
            runner.end(serial, FAILED)
    assert 0 < stage.pump.held < 50


def test_a_lease_that_no_renewal_could_save_is_lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    publish(stage.producer, *messages(1, visibility_timeout_ms=3_000))
    publish(stage.producer, *messages(1, visibility_timeout_ms=300_000))
    stage.tick()
    stage.runners[0].start(0, 1)

    def away(_: Sequence[object]) -> list[Extended]:
        raise BrokerUnavailable("away")

    has = stage.broker.capabilities
    monkeypatch.setattr(stage.broker, "capabilities", replace(has, native_fence=False))
    monkeypatch.setattr(stage.broker, "extend", away)
    for _ in range(250):
        stage.tick(1_000)
    assert len(stage.told(LeaseLost)) == 1
    assert len(stage.runners[0].stops()) == 1


def test_what_runners_sent_before_they_were_killed_is_settled_and_not_run_again() -> None:
    stage = Stage()
    publish(stage.producer, *messages(2))
    stage.tick()
    stage.runners[0].start(0, 1)
    stage.pump.stop()
    stage.runners[0].finish(0)
    stage.runners[0].kill()
    stage.pump.hear_last()
    assert stage.pump.abandon() == 1
    assert (stage.settled().done, stage.settled().released) == (1, 1)


def test_a_solo_runner_that_cannot_start_is_tried_again_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(PLAIN, HEAVY)
    publish(stage.producer, message(queue="videos", task="transcode"))

    def broken(slots: int) -> ScriptedRunner:
        runner = ScriptedRunner(stage.clock, 100 + len(stage.runners), slots)
        runner.die("exit code 1")
        stage.runners.append(runner)
        return runner

    monkeypatch.setattr(stage.crew, "_spawn", broken)
    for _ in range(100):
        stage.tick(10)
    assert len(stage.runners) - 1 in range(2, 6)
    assert stage.pump.held == 1


def test_who_stops_starts_no_runner_any_more() -> None:
    stage = Stage(PLAIN, HEAVY)
    publish(stage.producer, *messages(4))
    stage.tick()
    stage.runners[0].start()
    stage.pump.stop()
    stage.runners[0].die()
    for _ in range(20):
        stage.tick(1_000)
    assert len(stage.runners) == 1


def test_no_more_jobs_run_than_there_are_slots_with_those_of_solo_runners() -> None:
    stage = Stage(PLAIN, HEAVY, slots=(1,), solos=1)
    publish(stage.producer, message(queue="videos", task="transcode"))
    stage.tick()
    shared, solo = stage.runners
    solo.out.clear()  # it takes its time to start
    publish(stage.producer, message())
    stage.tick()
    assert len(shared.queued) == 0
    solo.hello(*stage.tasks)
    stage.tick()
    assert (len(shared.queued), len(solo.queued)) == (0, 1)
    solo.start()
    solo.finish(*solo.at)
    stage.tick()
    assert len(shared.queued) == 1
