"""Whoever holds what others wait for need not wait for its interpreter, and leaves it as it was."""

import sys
import threading
from collections.abc import Iterator

import pytest

from dibs.local.prompt import PROMPT_SECONDS, PromptInterpreter
from tests.unit.steps import each_step

USUAL = 0.004


@pytest.fixture
def prompt() -> Iterator[PromptInterpreter]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL)
    yield PromptInterpreter()
    sys.setswitchinterval(before)


def test_the_last_to_leave_leaves_the_interval_as_it_was(prompt: PromptInterpreter) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with prompt:
            entered.set()
            leave.wait()

    other = threading.Thread(target=hold, daemon=True)
    other.start()
    entered.wait()
    with prompt:
        assert sys.getswitchinterval() == PROMPT_SECONDS
    assert sys.getswitchinterval() == PROMPT_SECONDS
    leave.set()
    other.join()
    assert sys.getswitchinterval() == USUAL


def test_what_the_program_sets_is_kept(prompt: PromptInterpreter) -> None:
    with prompt:
        pass
    sys.setswitchinterval(2 * USUAL)
    with prompt:
        assert sys.getswitchinterval() == PROMPT_SECONDS
    assert sys.getswitchinterval() == 2 * USUAL


def test_interrupted_at_any_step_it_is_left_as_it_was_by_the_next_time(
    prompt: PromptInterpreter,
) -> None:
    for step, interrupt in enumerate(each_step("local/prompt.py")):
        with interrupt, prompt:
            pass
        with prompt:
            assert sys.getswitchinterval() == PROMPT_SECONDS
        assert sys.getswitchinterval() == USUAL, f"interrupted at step {step}"
