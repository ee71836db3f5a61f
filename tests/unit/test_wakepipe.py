"""A pipe that wakes whoever waits in a selector."""

import select

from dibs.wakepipe import WakePipe


def test_a_ring_after_it_was_closed_goes_to_no_other_file() -> None:
    """The numbers of its descriptors are the next file's."""
    closed = WakePipe()
    numbers = {closed.fileno(), closed.writer}
    closed.close()
    other = WakePipe()
    assert {other.fileno(), other.writer} == numbers
    closed.ring()
    assert not select.select([other], [], [], 0)[0]
    other.close()
