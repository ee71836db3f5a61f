"""The end of a lease is the only fence here: nothing is sent past it, whoever slept or repeats."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config

from dibs.brokers.contract import Applied, Lost, Stale, Unknown
from dibs.brokers.sqs import SqsBroker, open_sqs
from dibs.message import Ack
from dibs.testing.clock import ManualClock
from dibs.testing.making import VISIBILITY_MS, claim_one, message, publish, settle
from tests.servers.sqs import Server
from tests.servers.sqs_faults import LOST, SILENT, Front
from tests.unit.sqs.conftest import Open
from tests.worker.workers import until


class SleepyClock(ManualClock):
    """The clock of a machine that can be put to sleep: its monotonic time then stands still."""

    def __init__(self) -> None:
        super().__init__()
        self._slept_ms = 0

    def sleep(self, ms: int) -> None:
        self._slept_ms += ms
        self.advance(ms)

    def monotonic(self) -> float:
        return super().monotonic() - self._slept_ms / 1_000


def test_a_lease_is_over_when_its_holders_machine_slept_through_its_end(
    open_broker: Open, front: Front, server: Server
) -> None:
    """SQS counts on: another has the job, and its message would be deleted under it."""
    clock = SleepyClock()
    server.follow(clock)
    broker = open_broker(front.endpoint, clock)
    publish(broker, message())
    old = claim_one(broker)
    clock.sleep(VISIBILITY_MS)
    server.follow(clock)
    new = claim_one(broker)
    front.seen.clear()
    assert settle(broker, old, Ack()) == Stale()
    assert broker.extend([old]) == [Lost()]
    assert list(front.seen) == []
    assert settle(broker, new, Ack()) == Applied()


def repeating(front: Front, server: Server, mode: Any, clock: ManualClock) -> SqsBroker:
    """Return a broker with a client of one's own, which repeats what fails, as boto3's do."""
    config = Config(read_timeout=0.2, retries={"mode": mode, "max_attempts": 5})
    client = boto3.client(
        "sqs", region_name="eu-west-1", endpoint_url=front.endpoint, config=config
    )
    return open_sqs(client, server.new_prefix(), clock=clock)


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
def test_a_ready_made_client_repeats_nothing_after_the_end_of_a_lease(
    open_broker: Open, front: Front, server: Server, mode: str
) -> None:
    """Its second try would delete the message of whoever has it by then."""
    del open_broker
    clock = ManualClock()
    broker = repeating(front, server, mode, clock)
    publish(broker, message())
    lease = claim_one(broker)
    front.seen.clear()
    front.spoil("DeleteMessageBatch", SILENT)
    with ThreadPoolExecutor() as aside:
        answer = aside.submit(settle, broker, lease, Ack())
        until(lambda: "DeleteMessageBatch" in front.seen, "it was sent")
        clock.advance(VISIBILITY_MS)
        said = answer.result()
    assert isinstance(said, Unknown)
    assert "the time was over before it could be sent again" in said.why
    assert list(front.seen) == ["DeleteMessageBatch"]
    assert settle(broker, lease, Ack()) == Stale()


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
def test_what_a_ready_made_client_repeats_is_not_taken_for_refused(
    open_broker: Open, front: Front, server: Server, mode: str
) -> None:
    """The first try was stored, and its answer lost; what the second is told says nothing of it."""
    del open_broker
    broker = repeating(front, server, mode, ManualClock())
    broker.declare(["photos"])
    front.spoil("SendMessageBatch", LOST, "AccessDenied")
    (said,) = broker.publish([message()])
    assert isinstance(said, Unknown)
    assert len(broker.claim(["photos"], 10).leases) == 1


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
def test_a_ready_made_client_repeats_in_time_what_got_no_answer(
    open_broker: Open, front: Front, server: Server, mode: str
) -> None:
    del open_broker
    broker = repeating(front, server, mode, ManualClock())
    publish(broker, message())
    lease = claim_one(broker)
    front.spoil("DeleteMessageBatch", SILENT)
    assert settle(broker, lease, Ack()) == Applied()
