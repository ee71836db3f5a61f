"""Faults done to a server that speaks SQS, in short."""

from tests.faults.grounds import grounds
from tests.faults.scenarios import SCENARIOS
from tests.faults.short import ShortPass


class TestSqs(ShortPass):
    name = "sqs"


def test_the_table_says_that_a_server_which_forgets_is_stopped_and_not_ended() -> None:
    said = {name: SCENARIOS["restart"].on(ground) for name, ground in grounds().items()}
    assert said.pop("sqs") == "server stopped for 1 s, and let go on"
    assert set(said.values()) == {"server ended and started again"}
    assert SCENARIOS["kill"].on(grounds()["sqs"]) == "worker killed"
