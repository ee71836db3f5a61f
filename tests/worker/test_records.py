"""The pump and idempotency keys, in virtual time: what is done is acknowledged and never run."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from dibs.errors import BrokerUnavailable
from dibs.events import AlreadyDone, BrokerTrouble, JobFailed
from dibs.idempotency import HEADER, record_id
from dibs.message import Ack, Message, Record, Result
from dibs.testing.making import claim_one, message, publish, settle
from tests.worker.scripted import HEAVY, PLAIN, Stage

KEEP_MS = 60_000
KEYED = replace(PLAIN, keep_result_ms=KEEP_MS, keep_key_ms=10 * KEEP_MS)


def keyed(key: str = "charge-17", **fields: object) -> Message:
    return message(headers={HEADER: key}, **fields)


def record(of: Message) -> bytes:
    found = record_id(of)
    assert found is not None
    return found


def done(
    stage: Stage, of: Message, value: bytes | None = b'"paid"', keep_ms: int = KEEP_MS
) -> None:
    """Have the work of a key done, by another worker."""
    publish(stage.producer, message())
    other = stage.open(b"other")
    settle(other, claim_one(other), Ack(value, 0, Record(record(of), keep_ms)))


def asked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Note what the pump looks up."""
    calls: list[list[bytes]] = []
    results = stage.broker.results

    def noted(ids: Sequence[bytes]) -> list[Result | None]:
        calls.append(list(ids))
        return results(ids)

    monkeypatch.setattr(stage.broker, "results", noted)
    return calls


def test_what_is_done_is_not_run_and_has_the_recorded_result() -> None:
    stage = Stage(KEYED)
    one = keyed()
    done(stage, one)
    publish(stage.producer, one)
    stage.tick()
    assert stage.runners[0].queued == []
    assert stage.counts() == (0, 0, 0, 0)
    assert stage.producer.results([one.id]) == [Result(one.id, b'"paid"')]
    assert stage.told(AlreadyDone) == [AlreadyDone(1)]
    assert (stage.settled().done, stage.pump.held) == (1, 0)


def test_a_result_is_kept_as_the_task_says_here() -> None:
    stage = Stage(replace(KEYED, keep_result_ms=0))
    one, two = keyed("1"), keyed("2")
    done(stage, one)
    done(stage, two, None)
    publish(stage.producer, one, two)
    stage.tick()
    gone = [Result(id, None, kept=False) for id in (one.id, two.id)]
    assert stage.producer.results([one.id, two.id]) == gone
    assert stage.settled().done == 2


def test_what_is_not_done_is_run_and_so_is_another_key_and_another_task() -> None:
    stage = Stage(KEYED, replace(KEYED, name="refund"))
    done(stage, keyed("charge-17"))
    publish(stage.producer, keyed("charge-18"), keyed("charge-17", task="refund"))
    stage.tick()
    assert len(stage.runners[0].queued) == 2
    assert stage.told(AlreadyDone) == []


def test_a_record_holds_for_its_time_and_is_not_renewed_by_being_met() -> None:
    stage = Stage(KEYED)
    done(stage, keyed(), keep_ms=KEEP_MS)
    publish(stage.producer, keyed())
    stage.tick(KEEP_MS - 1)
    assert stage.runners[0].queued == []
    publish(stage.producer, keyed())
    stage.tick(1)
    assert len(stage.runners[0].queued) == 1


def test_the_keys_of_a_claim_are_looked_up_together_and_of_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(KEYED, slots=(8,))
    calls = asked(stage, monkeypatch)
    publish(stage.producer, message(), message(headers={"trace": "1"}))
    stage.tick()
    assert calls == []
    one, two = keyed("1"), keyed("2")
    publish(stage.producer, one, message(), two)
    stage.tick()
    assert calls == [[record(one), record(two)]]


def test_a_ring_that_the_look_up_swallowed_is_made_good_by_a_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(KEYED)
    results = stage.broker.results

    def late(ids: Sequence[bytes]) -> list[Result | None]:
        publish(stage.producer, message())  # after the claim, and its ring is drained here
        return results(ids)

    monkeypatch.setattr(stage.broker, "results", late)
    publish(stage.producer, keyed())
    until = stage.tick()
    assert until is not None
    assert until <= stage.clock.monotonic(), "it looks again at once"
    stage.pump.tick(rung=False)
    assert len(stage.runners[0].queued) == 2


def test_what_cannot_be_looked_up_is_given_back_uncounted_and_the_others_are_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(KEYED)
    results = stage.broker.results

    def failing(ids: Sequence[bytes]) -> list[Result | None]:
        raise BrokerUnavailable(f"{len(ids)} ids were asked for in vain")

    monkeypatch.setattr(stage.broker, "results", failing)
    publish(stage.producer, keyed(), message())
    stage.tick()
    assert len(stage.runners[0].queued) == 1
    assert [trouble.text for trouble in stage.told(BrokerTrouble)] == [
        "1 ids were asked for in vain"
    ]
    monkeypatch.setattr(stage.broker, "results", results)
    stage.tick(10_000)
    stage.tick()
    assert len(stage.runners[0].queued) == 2
    assert (stage.settled().released, stage.told(JobFailed)) == (1, [])
    lease = stage.pump.leases.get(1)
    assert lease is not None
    assert (lease.fence, lease.attempt) == (2, 1)


def test_a_job_whose_budget_is_used_up_is_done_if_its_key_is() -> None:
    stage = Stage(KEYED)
    one = keyed(max_lost=1, visibility_timeout_ms=1_000)
    publish(stage.producer, one)
    claim_one(stage.open(b"dies"))
    done(stage, one)
    stage.tick(1_000)
    assert stage.counts() == (0, 0, 0, 0)
    assert stage.settled().done == 1


def test_a_key_in_an_envelope_of_another_version_means_nothing_here() -> None:
    stage = Stage(KEYED)
    one = keyed(version=2)
    done(stage, one)
    publish(stage.producer, one)
    stage.tick()
    assert stage.counts() == (0, 0, 0, 1)
    assert [event.error.type for event in stage.told(JobFailed)] == ["dibs.policy"]


def test_a_job_of_a_task_that_is_lacked_is_given_back_whatever_its_key() -> None:
    stage = Stage(KEYED)
    one = keyed(task="unheard-of")
    done(stage, one)
    publish(stage.producer, one)
    stage.tick()
    assert stage.counts() == (0, 1, 0, 0)


def test_a_process_task_that_is_done_waits_for_no_runner() -> None:
    stage = Stage(replace(HEAVY, keep_key_ms=KEEP_MS))
    one = keyed(task=HEAVY.name, queue=HEAVY.queue)
    done(stage, one, None)
    publish(stage.producer, one)
    stage.tick()
    assert stage.counts("videos") == (0, 0, 0, 0)
    assert stage.pump.held == 0


def test_more_that_is_done_than_there_is_room_for_is_gone_through_at_once() -> None:
    stage = Stage(KEYED, slots=(2,))
    done(stage, keyed())
    publish(stage.producer, *(keyed() for _ in range(9)), keyed("another"))
    stage.tick()
    for _ in range(5):
        stage.pump.tick(rung=False)
    assert stage.counts() == (0, 0, 1, 0)
    assert stage.settled().done == 9
