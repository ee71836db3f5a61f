"""B3 and B17 on a RabbitMQ server: what it takes back too early, and what it throws away."""

import os
from collections.abc import Iterator

import pytest
from pika import BlockingConnection, URLParameters

from dibs.brokers.contract import Refused, Stored
from dibs.brokers.rabbitmq import open_url
from dibs.clock import SystemClock
from dibs.testing.making import message, messages, publish
from dibs.wires.amqp.post import KEEPING
from tests.regressions.seeding import finds
from tests.servers.missing import not_installed
from tests.servers.rabbitmq import Server, programs, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    binaries = programs()
    if binaries is None:
        not_installed("RabbitMQ", "rabbitmq-server")
    with serving(binaries) as running:
        yield running


@finds("takes_any_timeout", "Stored.* is a run that the server cuts short")
def test_b03_a_run_longer_than_the_servers_timeout_is_refused(server: Server) -> None:
    """The server would close the channel under it, and give back all that its worker holds."""
    broker = open_url(f"{server.url()}?prefix=b03", clock=SystemClock(), worker_id=os.urandom(16))
    (answer,) = broker.publish([message(timeout_ms=1_800_000)])
    broker.close()
    assert isinstance(answer, Refused), f"{answer} is a run that the server cuts short"


@finds("publishes_unrouted", "0 of 4 stored jobs are there")
def test_b17_a_publish_to_a_queue_that_somebody_deleted_makes_it_again(server: Server) -> None:
    """What has no queue is confirmed and thrown away, unless the server is told that it must."""
    broker = open_url(f"{server.url()}?prefix=b17", clock=SystemClock(), worker_id=os.urandom(16))
    publish(broker, *messages(2))
    connection = BlockingConnection(URLParameters(server.url()))
    channel = connection.channel()
    channel.queue_delete("b17.q.photos")
    assert broker.publish(messages(3)) == [Stored()] * 3
    publish(broker, message())
    there = channel.queue_declare("b17.q.photos", durable=True, arguments=KEEPING).method
    connection.close()
    broker.close()
    assert there.message_count == 4, f"{there.message_count} of 4 stored jobs are there"
