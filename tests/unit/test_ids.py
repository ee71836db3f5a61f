"""Ids are time-ordered, unique, and of the layout that other tools know."""

import threading
from uuid import UUID

from dibs.clock import SystemClock
from dibs.producer.ids import Ids, as_text


class Steps(SystemClock):
    """A wall clock that says what it is told to."""

    def __init__(self, *moments: int) -> None:
        self._moments = iter(moments)

    def wall_ms(self) -> int:
        return next(self._moments)


def zeros(count: int) -> bytes:
    return bytes(count)


def ones(count: int) -> bytes:
    return b"\xff" * count


def test_an_id_is_a_uuid_of_version_seven() -> None:
    for drawn in (zeros, ones):
        made = UUID(bytes=Ids(Steps(1_700_000_000_000), drawn).new())
        assert (made.version, made.variant) == (7, "specified in RFC 4122")
        assert made.int >> 80 == 1_700_000_000_000
        assert as_text(made.bytes) == str(made)


def test_ids_grow_within_a_millisecond_and_when_the_clock_steps_back() -> None:
    ids = Ids(Steps(5, 5, 6, 1, 7, 7), ones)
    made = [ids.new(), ids.new(), ids.new(), ids.new(), *ids.take(3), ids.new()]
    assert made == sorted(set(made))


def test_another_draw_is_another_source() -> None:
    ids = Ids(Steps(1, 1), zeros)
    first = ids.new()
    ids.renew()
    assert ids.new() == first  # of the same randomness: so the seam is all that tells them apart
    assert Ids(Steps(1), ones).new() != first


def test_threads_never_get_the_same_id() -> None:
    ids = Ids(SystemClock(), zeros)
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.extend(ids.new() for _ in range(5_000)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20_000
