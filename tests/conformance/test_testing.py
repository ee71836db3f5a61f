"""What `dibs.testing` itself promises."""

import subprocess
import sys

import pytest

from dibs.testing import ClockFault, ManualClock


def test_the_suite_needs_no_hypothesis() -> None:
    seen = "import sys, dibs.testing; sys.exit('hypothesis' in sys.modules)"
    subprocess.run([sys.executable, "-c", seen], check=True)


def test_the_clocks_move_together_unless_the_wall_clock_is_set() -> None:
    clock = ManualClock(wall_ms=1_000, boot_ms=10)
    clock.advance(5)
    clock.step_wall(-900)
    assert (clock.wall_ms(), clock.boot_ms(), clock.monotonic()) == (105, 15, 0.015)


def test_a_reboot_is_another_boot() -> None:
    clock = ManualClock()
    before = clock.boot_id(), clock.boot_ms(), clock.wall_ms()
    clock.reboot()
    assert clock.boot_id() != before[0]
    assert clock.boot_ms() < before[1]
    assert clock.wall_ms() == before[2]


def test_a_clock_fails_once_at_the_reading_it_was_told() -> None:
    clock = ManualClock(wall_ms=7)
    clock.fail_at(2)
    clock.boot_ms()
    with pytest.raises(ClockFault):
        clock.wall_ms()
    assert clock.wall_ms() == 7


def test_a_fault_can_be_called_off() -> None:
    clock = ManualClock(wall_ms=7)
    clock.fail_at(1)
    clock.fail_at(None)
    assert clock.wall_ms() == 7
