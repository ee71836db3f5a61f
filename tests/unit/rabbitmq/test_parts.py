"""The parts that need no server: frames, turns and the ladder."""

import time
from collections import Counter

import pytest
from pika.frame import Method
from pika.spec import Basic

from dibs.wires.amqp.frames import Reader, acked, published
from dibs.wires.amqp.ladder import RUNGS_MS, Ladder
from dibs.wires.amqp.letters import ODD, Past, past_of, properties_of
from dibs.wires.amqp.press import Press
from dibs.wires.amqp.turns import Turns

DAY_MS = 24 * 3_600_000


def delivered(consumer: bytes, tag: int, properties: bytes, body: bytes, most: int) -> bytes:
    """Return a delivery as a server sends it: the frames of a publish, another method first."""
    sent = published("", "", properties, body, most)
    content = sent[sent.index(b"\xce") + 1 :]
    method = b"\x00\x3c\x00\x3c" + bytes([len(consumer)]) + consumer + tag.to_bytes(8, "big")
    method += b"\x00\x00\x00"
    return b"\x01\x00\x01" + len(method).to_bytes(4, "big") + method + b"\xce" + content


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100, 10_000])
def test_deliveries_are_whole_however_they_are_cut(size: int) -> None:
    properties = properties_of(Past(fence=3))
    other = acked(7, all_before=True)
    bodies = [b"", b"a", bytes(range(256)) * 3]
    sent = b"".join(
        delivered(b"c1", tag, properties, body, 100) + other for tag, body in enumerate(bodies, 1)
    )
    came: list[tuple[bytes, int, bytes, bytes]] = []
    others: list[bytes] = []
    reader = Reader(lambda *delivery: came.append(delivery), others.append)
    for at in range(0, len(sent), size):
        reader.feed(sent[at : at + size])
    assert came == [(b"c1", tag, properties, body) for tag, body in enumerate(bodies, 1)]
    assert others == [other] * 3


def test_a_past_comes_back_and_foreign_headers_do_no_harm() -> None:
    past = Past(fence=9, failures=2, crashes=1, lost=3, due_ms=1_800_000_000_000)
    assert past_of(properties_of(past, more={"reason": "max_lost"})) == past
    assert past_of(properties_of(Past(), more={"fence": "many"})).fence == 0


@pytest.mark.parametrize("fence", [-1, 1 << 53, (1 << 63) - 1])
def test_a_counter_that_can_be_none_is_no_past(fence: int) -> None:
    """One more of it would fit into no header, and end the worker that settles its message."""
    with pytest.raises(ODD):
        past_of(properties_of(Past(fence=fence)))


@pytest.mark.parametrize(
    ("wait_ms", "rung_ms", "leaves_ms"),
    [
        (1, 250, 1),
        (100, 250, 100),
        (230, 250, 230),
        (250, 250, None),
        (900, 250, None),
        (980, 1_000, None),
        (5_000, 4_000, None),
        (DAY_MS, 16_384_000, None),
    ],
)
def test_a_message_is_put_on_the_longest_rung_that_is_not_too_long(
    wait_ms: int, rung_ms: int, leaves_ms: int | None
) -> None:
    rung, expires_ms = Ladder("dibs").rung(wait_ms)
    assert (rung.name, expires_ms) == (f"dibs.delay.{rung_ms}", leaves_ms)


@pytest.mark.parametrize("wait_ms", [1, 999, 5_000, 60_000, 3_600_000, DAY_MS, 7 * DAY_MS])
def test_a_message_comes_down_in_few_hops_and_never_late_by_more_than_a_quarter_of_a_second(
    wait_ms: int,
) -> None:
    """Were the hops to take no time: what they take, the next one is shorter by."""
    ladder, left, hops = Ladder("dibs"), wait_ms, 0
    while left > 0:
        rung, expires_ms = ladder.rung(left)
        left -= expires_ms or int(rung.name.rpartition(".")[2])
        hops += 1
    assert -250 <= left <= 0
    assert hops <= 3 * len(RUNGS_MS) + wait_ms // RUNGS_MS[-1] + 1


class Sent(Press):
    """One that has sent messages and hears what became of them, on no connection."""

    def __init__(self, *missing: int) -> None:
        self._missing = set(missing)
        self._refused = set()

    def hear(self, confirm: Basic.Ack | Basic.Nack) -> tuple[set[int], set[int]]:
        """Return what is missing after it, and what is refused."""
        self._on_confirm(Method(1, confirm))
        return self._missing, self._refused


def test_a_confirm_is_of_one_or_of_all_so_far_that_are_missing() -> None:
    sent = Sent(3, 4, 5, 6, 7, 8)
    assert sent.hear(Basic.Ack(4, multiple=False)) == ({3, 5, 6, 7, 8}, set())
    assert sent.hear(Basic.Nack(6, multiple=False)) == ({3, 5, 7, 8}, {6})
    assert sent.hear(Basic.Ack(3, multiple=True)) == ({5, 7, 8}, {6})
    assert sent.hear(Basic.Nack(7, multiple=True)) == ({8}, {5, 6, 7})
    assert sent.hear(Basic.Nack(5, multiple=False)) == ({8}, {5, 6, 7})
    assert sent.hear(Basic.Ack(8, multiple=True)) == (set(), {5, 6, 7})


def test_a_confirm_of_all_so_far_costs_what_is_missing() -> None:
    """And not what was sent in days before, of which each was confirmed alone."""
    days = 20_000_000
    sent = Sent(days, days + 1)
    began = time.process_time()
    assert sent.hear(Basic.Ack(days, multiple=True)) == ({days + 1}, set())
    assert sent.hear(Basic.Nack(days + 1, multiple=True)) == (set(), {days + 1})
    assert time.process_time() - began < 0.1


def test_queues_are_served_in_turn() -> None:
    turns = Turns()
    there = {"a": 5, "b": 5, "c": 1}
    assert sum(turns.shares(there, 7).values()) == 7
    served = Counter[str]()
    for _ in range(6):
        served += Counter(turns.shares({"a": 9, "b": 9, "c": 9}, 1))
    assert served == {"a": 2, "b": 2, "c": 2}
