"""What others' SQS pollers and receipts did wrong."""

import select

from dibs.brokers.contract import Applied, Lost, Stale
from dibs.errors import BrokerError
from dibs.message import Ack
from dibs.testing.clock import ManualClock
from dibs.testing.making import VISIBILITY_MS, claim_one, message, publish, settle
from tests.regressions.seeding import finds
from tests.servers.sqs import Server
from tests.servers.sqs_faults import Front
from tests.unit.sqs.conftest import Open
from tests.unit.sqs.test_trouble import worked
from tests.worker.workers import until


@finds("polls_no_more_after_an_error", "nothing within 10 s")
def test_b16_a_poll_that_fails_is_told_and_made_again(open_sqs: Open, front: Front) -> None:
    """kombu 1064, celery 5072 and 8243: a 500 or 599 ended the poller, and no job ran again."""
    publish(open_sqs(), message())
    broker = open_sqs(front.endpoint)
    broker.bell()
    assert len(worked(broker)[0]) == 1
    assert broker.claim(["photos"], 10).leases == []
    seen = front.seen.count("ReceiveMessage")
    until(lambda: front.seen.count("ReceiveMessage") >= max(seen, 2), "a poll is under way")
    front.spoil("ReceiveMessage", "599")
    publish(open_sqs(), message())
    told: list[BrokerError] = worked(broker)[1]
    select.select([broker.bell()], [], [], 2.0)  # the poll after it was answered wrongly
    publish(open_sqs(), message())
    told += worked(broker)[1]
    assert [type(error).__name__ for error in told] == ["BrokerUnavailable"]


@finds("settles_by_any_receipt", "assert .*Applied.* == Stale")
def test_b49_a_receipt_whose_time_is_over_is_never_sent(
    open_sqs: Open, front: Front, server: Server
) -> None:
    """localstack 13222, elasticmq 324: SQS itself may take it, for a message that is another's."""
    clock = ManualClock()
    server.follow(clock)
    broker = open_sqs(front.endpoint, clock)
    publish(broker, message())
    old = claim_one(broker)
    clock.advance(VISIBILITY_MS)
    server.follow(clock)
    new = claim_one(broker)
    front.seen.clear()
    assert settle(broker, old, Ack()) == Stale()
    assert broker.extend([old]) == [Lost()]
    assert list(front.seen) == []
    assert settle(broker, new, Ack()) == Applied()
