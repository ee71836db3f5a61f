"""The suite finds what is wrong with a broker, and only that."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from dibs.testing import Harness
from dibs.testing.machine import BrokerMachine
from tests.conformance.wrong_brokers import TestPopDelete as PopDelete
from tests.conformance.wrong_brokers import TestUnfencedAck as UnfencedAck
from tests.conformance.wrong_brokers import Wrong

HERE = Path(__file__).parent

CAUGHT_BY = {
    "TestPopDelete": {
        "test_rule_08_a_lease_outlives_the_broker_object_that_took_it",
        "test_rule_09_a_settlement_with_an_old_fence_changes_nothing",
        "test_rule_09_the_fence_grows_by_one_at_every_claim",
        "test_rule_11_what_is_no_longer_there_is_gone",
        "test_rule_14_a_nack_counts_what_it_charges",
        "test_rule_14_a_claim_over_an_expired_lease_counts_a_loss",
        "test_rule_14_every_failed_lease_is_noted",
        "test_rule_16_every_message_is_in_exactly_one_place",
        "test_rule_17_nothing_is_granted_before_its_holders_lease_has_ended",
        "test_rule_23_what_a_dead_holder_left_is_granted_at_its_expiry",
    },
    "TestUnfencedAck": {
        "test_a_batch_of_settlements_is_answered_one_by_one",
        "test_rule_09_a_settlement_with_an_old_fence_changes_nothing",
        "test_rule_09_a_lease_that_was_given_back_is_nobodys",
        "test_rule_09_a_fence_that_was_never_granted_holds_nothing",
        "test_rule_09_the_leases_of_before_a_redrive_are_stale",
        "test_rule_09_an_old_lease_does_not_hold_a_later_message_of_its_id",
        "test_rule_11_two_settlements_of_one_lease_in_one_batch",
        "test_rule_21_a_late_result_is_kept_and_a_stale_one_is_not",
        "test_rule_21_a_late_record_is_kept_and_a_stale_one_is_not",
    },
    "TestTwoStepDeadLetter": {
        "test_rule_16_a_settlement_that_is_cut_short_is_whole_or_nothing",
    },
}

NOT_CAUGHT_BY = {
    "test_rule_03_a_message_comes_back_byte_for_byte",
    "test_rule_02_what_is_refused_is_named_and_never_granted",
    "test_by_priority_then_in_publish_order",
}


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """Which cases failed, by the class that brought the broker."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rf", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "-n0", "wrong_brokers.py"], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    failed: dict[str, set[str]] = defaultdict(set)
    for name, case in re.findall(r"^FAILED \S+::(Test\w+)::(test_\w+)", run.stdout, re.MULTILINE):
        failed[name].add(case)
    return failed


@pytest.mark.parametrize("wrong", CAUGHT_BY)
def test_a_wrong_broker_is_caught(found: dict[str, set[str]], wrong: str) -> None:
    assert CAUGHT_BY[wrong] <= found[wrong]


@pytest.mark.parametrize("wrong", CAUGHT_BY)
def test_what_it_does_right_is_not_held_against_it(found: dict[str, set[str]], wrong: str) -> None:
    assert not NOT_CAUGHT_BY & found[wrong]


@pytest.mark.parametrize("wrong", ["TestUnfencedAck", "TestTwoStepDeadLetter"])
def test_a_single_mistake_is_all_that_is_found(found: dict[str, set[str]], wrong: str) -> None:
    assert found[wrong] == CAUGHT_BY[wrong]


@pytest.mark.parametrize("wrong", [PopDelete, UnfencedAck])
def test_the_state_machine_finds_it_too(wrong: type[Wrong]) -> None:
    class Machine(BrokerMachine):
        def make_harness(self, folder: Path) -> Harness:
            return wrong().make_harness(folder)

    seeded = settings(phases=[Phase.generate], max_examples=1_000, derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=seeded)
