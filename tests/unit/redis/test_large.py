"""However large messages and results are, what one call moves arrives within its time."""

from collections.abc import Iterable
from itertools import islice

import pytest
from msgspec.structs import replace

from dibs.acked import Acked
from dibs.brokers.contract import APPLIED, UNKNOWN
from dibs.brokers.redis import RedisBroker
from dibs.message import Ack, DeadLetter, Error, Lease, Message, Nack, Outcome, Release, Settlement
from dibs.testing.making import claim, ids, message, messages, publish
from dibs.wires.resp.link import NoAnswer
from dibs.wires.resp.parts import parts_of
from tests.servers.redis import RedisServer
from tests.unit.redis.conftest import Open

MIB = 1 << 20
MOST = 4 * MIB
LARGE = b"x" * MIB


def large(count: int, queue: str = "photos") -> list[Message]:
    return messages(count, queue, args=LARGE)


def bytes_in(leases: Iterable[Lease]) -> int:
    return sum(len(lease.message.args) for lease in leases)


def claims_of(broker: RedisBroker, *queues: str) -> list[list[Lease]]:
    """Claim until nothing is granted; what a claim leaves is to be asked for at once."""
    claims: list[list[Lease]] = []
    while (found := broker.claim(queues or ["photos"], 50)).leases:
        claims.append(found.leases)
        assert found.next_in == 0 or not claim(broker, *queues)
    return claims


def test_a_claim_is_granted_no_more_than_arrives_in_its_time(
    running: RedisServer, opener: Open
) -> None:
    """What it leaves keeps its place, and is not counted as granted."""
    broker = opener(running.url())
    new = [message(args=b"short"), *large(9), message(args=b"short")]
    for one in new:
        publish(broker, one)
    for fence in (1, 2):
        claims = claims_of(broker)
        assert len(claims) == 3
        assert all(0 < bytes_in(leases) <= MOST for leases in claims)
        leases = [lease for leases in claims for lease in leases]
        assert ids(leases) == ids(new)
        assert {(lease.fence, lease.lost) for lease in leases} == {(fence, 0)}
        settled = broker.settle([Settlement(lease, Release()) for lease in leases])
        assert settled == [APPLIED] * len(new)


def test_a_message_that_is_larger_than_that_is_granted_alone(
    running: RedisServer, opener: Open
) -> None:
    broker = opener(running.url())
    broker.capabilities = replace(broker.capabilities, payload_limit=2 * MOST)
    new = messages(2, args=LARGE * 5)
    publish(broker, *new)
    assert [ids(leases) for leases in claims_of(broker)] == [[one.id] for one in new]


def test_what_is_large_in_one_queue_does_not_starve_another(
    running: RedisServer, opener: Open
) -> None:
    broker = opener(running.url())
    publish(broker, *large(9, "a"))
    publish(broker, *large(9, "b"))
    first, second, *_ = claims_of(broker, "a", "b")
    assert {lease.message.queue for lease in first + second} == {"a", "b"}


def test_many_short_messages_are_granted_by_one_claim(running: RedisServer, opener: Open) -> None:
    broker = opener(running.url())
    new = publish(broker, *messages(700))
    assert ids(claim(broker, limit=650)) == ids(new)[:650]


def test_large_results_are_sent_a_few_at_a_time(
    running: RedisServer, opener: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that arrive have arrived, also if the time is over before the last."""
    broker = opener(running.url())
    publish(broker, *messages(10))
    ends = [Settlement(lease, Ack(LARGE, 60_000)) for lease in claim(broker, limit=10)]
    run, sent = broker._run, list[int]()

    def until_the_third(verb: str, *arguments: object) -> object:
        sent.append(sum(len(one) for one in arguments if isinstance(one, bytes)))
        if len(sent) == 3:
            raise NoAnswer("the time is over")
        return run(verb, *arguments)

    monkeypatch.setattr(broker, "_run", until_the_third)
    assert broker.settle(ends) == [APPLIED] * 8 + [UNKNOWN] * 2
    assert max(sent) < MOST + MIB
    assert broker.settle(ends[8:]) == [APPLIED] * 2


def test_plain_acknowledgements_are_sent_as_many_as_fit_a_script() -> None:
    leases = [Lease(message(), 1, 0, 0, 0, 0, 0)] * 25
    assert list(islice(parts_of(Acked(leases), 10), 3)) == [10, 10, 10]


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([0] * 25, [10, 10, 5]),
        ([MIB] * 9, [4, 4, 1]),
        ([0, 5 * MIB, 5 * MIB, 0], [1, 1, 1, 1]),
        ([MOST, 0, 0, 1], [3, 1]),
        ([5 * MIB], [1]),
    ],
)
@pytest.mark.parametrize("kind", ["result", "nack", "dead letter"])
def test_a_part_is_as_much_as_fits(kind: str, sizes: list[int], parts: list[int]) -> None:
    lease = Lease(message(), 1, 0, 0, 0, 0, 0)

    def outcome(size: int) -> Outcome:
        error = Error("ValueError", "x" * (size // 2), "x" * (size - size // 2))
        if kind == "result":
            return Ack(b"x" * size, 1)
        return Nack(0, error) if kind == "nack" else DeadLetter("rejected", error)

    assert list(parts_of([Settlement(lease, outcome(size)) for size in sizes], 10)) == parts
