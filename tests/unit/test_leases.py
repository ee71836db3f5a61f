"""The book of leases: serials, and deadlines over time that is passed in."""

import math

from dibs.message import Ack, Lease, Message, Release, Settlement
from dibs.worker.leases import WAITING, Leases


def lease(visibility_ms: int = 30_000, timeout_ms: int = 900_000) -> Lease:
    message = Message(
        bytes(16), "q", "t", b"{}", visibility_timeout_ms=visibility_ms, timeout_ms=timeout_ms
    )
    return Lease(message, 1, 0, 0, 0, 0, 1)


def test_serials_count_up_and_are_never_reused() -> None:
    leases = Leases()
    assert leases.hold([lease(), lease()], 1, 0.0) == 0
    leases.take([0, 1])
    assert leases.hold([lease()], 1, 0.0) == 2


def test_a_lease_is_taken_once() -> None:
    leases = Leases()
    leases.hold([lease()], 1, 0.0)
    assert leases.take([0]) == (1, [lease()])
    assert leases.take([0]) == (0, [])
    assert len(leases) == 0


def test_a_lost_lease_counts_and_is_not_settled() -> None:
    leases = Leases()
    leases.hold([lease(), lease()], 1, 0.0)
    leases.lost.add(1)
    assert leases.take([0, 1]) == (2, [lease()])
    assert leases.lost == set()


def test_leases_are_ended_with_what_became_of_each() -> None:
    leases = Leases()
    leases.hold([lease(), lease(), lease()], 1, 0.0)
    ends = [(0, Ack(b"1", 5)), (0, Ack()), (7, Ack())]
    assert leases.end(ends) == (1, [Settlement(lease(), Ack(b"1", 5))])
    leases.lost.add(1)
    ends = [(1, Ack()), (2, Release()), (2, Ack())]
    assert leases.end(ends) == (2, [Settlement(lease(), Release())])
    assert leases.lost == set()
    assert len(leases) == 0


def test_a_batch_is_due_after_a_third_of_its_visibility_timeout() -> None:
    leases = Leases()
    leases.hold([lease(30_000)], 1, 100.0)
    assert leases.next_extend == 110.0
    assert leases.due(109.999) == []
    [batch] = leases.due(110.0)
    assert leases.left_of(batch) == [(0, lease(30_000))]


def test_the_shortest_of_a_batch_decides_when_to_look() -> None:
    leases = Leases()
    leases.hold([lease(30_000), lease(3_000, 500), lease(60_000)], 1, 0.0)
    assert leases.next_extend == 1.0
    assert leases.next_look == 0.5


def test_a_renewed_batch_counts_from_when_the_request_left() -> None:
    leases = Leases()
    leases.hold([lease(30_000)], 1, 0.0)
    [batch] = leases.due(10.0)
    leases.renewed(batch, 12.0)
    leases.plan_extend(0.0)
    assert leases.next_extend == 22.0


def test_a_batch_is_not_asked_for_again_before_the_broker_may_be_called() -> None:
    leases = Leases()
    leases.hold([lease(30_000)], 1, 0.0)
    assert len(leases.due(10.0)) == 1
    leases.plan_extend(11.5)
    assert leases.next_extend == 11.5


def test_a_settled_batch_is_not_due() -> None:
    leases = Leases()
    leases.hold([lease()], 1, 0.0)
    leases.take([0])
    assert leases.due(10.0) == []
    leases.plan_extend(0.0)
    assert math.isinf(leases.next_extend)


def test_what_a_member_holds_is_told_apart_from_what_waits() -> None:
    leases = Leases()
    leases.hold([lease()], 1, 0.0)
    leases.hold([lease()], WAITING, 0.0)
    assert [serial for serial, _ in leases.of(1)] == [0]
    leases.assign(1, 1)
    assert [serial for serial, _ in leases.of(1)] == [0, 1]
    assert leases.member_of(1) == 1


def test_settled_batches_do_not_pile_up() -> None:
    leases = Leases()
    for _ in range(10_000):
        leases.take([leases.hold([lease()], 1, 0.0)])
    assert len(leases._batches) < 200
