"""The RabbitMQ broker keeps the contract, on a server of the tests' own."""

import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from pika import BlockingConnection, URLParameters

from dibs.brokers.contract import CALL_LIMIT_SECONDS, Broker
from dibs.brokers.rabbitmq import RabbitBroker
from dibs.brokers.rabbitmq import broker as rabbitmq_broker
from dibs.clock import Clock
from dibs.testing import BrokerConformance, Harness
from dibs.testing.machine import BrokerMachine
from dibs.wires.amqp import post
from dibs.wires.amqp.address import address_of
from dibs.wires.amqp.ladder import Ladder
from tests.servers.missing import not_installed
from tests.servers.rabbitmq import Server, programs, serving

RUNGS_MS = (10,)
"""What is delayed comes back every ten real milliseconds, and the clock says whether it is due."""

_prefixes = count()
_servers: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[Server]:
    binaries = programs()
    if binaries is None:
        not_installed("RabbitMQ", "rabbitmq-server")
    with serving(binaries) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(post, "WRITTEN_SECONDS", 0.0)  # nobody kills this server
        # The clock stands still, so a busy machine is no reason to give a connection up.
        patch.setattr(rabbitmq_broker, "_SHORTEST_CALL_SECONDS", CALL_LIMIT_SECONDS)
        _servers.append(running)
        yield running
        _servers.remove(running)


def open_at(url: str, clock: Clock) -> Broker:
    return RabbitBroker(address_of(url), clock=clock, worker_id=os.urandom(16), rungs_ms=RUNGS_MS)


class RabbitHarness(Harness):
    """Virtual time: what lies on the ladder is waited for until it has come down once."""

    great_many = 300
    due_for_good = False

    def __init__(self, server: Server) -> None:
        self.prefix = f"t{os.getpid()}-{next(_prefixes)}"
        super().__init__(partial(open_at, f"{server.url()}?prefix={self.prefix}"))
        self._server = server

    def let_pass(self, ms: int) -> None:
        """Move the clock; holders look at it, and what is delayed comes where it is due."""
        super().let_pass(ms)
        for broker in self._open:
            broker.idle()
        self.come_down()

    def step_wall(self, ms: int) -> None:
        """Set the clock; what has become due comes where it is due."""
        super().step_wall(ms)
        self.come_down()

    def come_down(self) -> None:
        """Send a message down the ladder after all others, and wait until it has arrived."""
        connection = BlockingConnection(URLParameters(self._server.url()))
        channel = connection.channel()
        rung, _ = Ladder(self.prefix, RUNGS_MS).rung(10)
        channel.queue_declare(rung.name, durable=True, arguments=rung.arguments)
        channel.exchange_declare(rung.name, "fanout", durable=True)
        channel.queue_bind(rung.name, rung.name)
        probe = f"{self.prefix}.probe"
        channel.queue_declare(probe, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish(rung.name, probe, b"")
        for _ in channel.consume(probe, auto_ack=True, inactivity_timeout=10):
            break
        connection.close()


class TestRabbitBroker(BrokerConformance):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return RabbitHarness(_servers[0])


class RabbitMachine(BrokerMachine):
    def make_harness(self, folder: Path) -> Harness:
        del folder
        return RabbitHarness(_servers[0])


TestRabbitMachine = RabbitMachine.TestCase
TestRabbitMachine.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    # Not shrunk: the queues of a few hundred more examples are too many for the server.
    phases=[Phase.generate],
)
