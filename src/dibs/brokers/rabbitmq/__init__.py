"""Queues on a RabbitMQ server: quorum queues, confirmed publishes, and pika's protocol.

Called by: `brokers.url` for `amqp://` and `amqps://`, and whoever has pika's settings already.
"""

from pika.connection import Parameters

from dibs.brokers.contract import Broker
from dibs.brokers.rabbitmq.broker import RabbitBroker
from dibs.clock import Clock
from dibs.wires.amqp.address import CONSUMER_TIMEOUT_SECONDS, Address, address_of

__all__ = ["RabbitBroker", "open_rabbitmq", "open_url"]


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queues at `url`, such as `amqp://guest:guest@localhost/?prefix=dibs`.

    `amqps` is TLS, and the server's certificate is verified.

    Raises:
        UrlError: it cannot be read.
        BrokerUnavailable: the server cannot be reached, or does not let us in.
        BrokerRefused: this user lacks a right, or a queue is there that was made otherwise.
    """
    return RabbitBroker(address_of(url), clock=clock, worker_id=worker_id)


def open_rabbitmq(
    parameters: Parameters,
    *,
    clock: Clock,
    worker_id: bytes,
    prefix: str = "dibs",
    consumer_timeout: int = CONSUMER_TIMEOUT_SECONDS,
) -> Broker:
    """Open the queues on the server of pika's `ConnectionParameters`.

    Host, vhost, credentials and TLS are taken from them; heartbeats and time-outs are ours.

    Raises:
        OptionError: `prefix` is not 1 to 100 of A-Z a-z 0-9 _ . -
        BrokerUnavailable: the server cannot be reached, or does not let us in.
        BrokerRefused: this user lacks a right, or a queue is there that was made otherwise.
    """
    address = Address(parameters, prefix, consumer_timeout)
    return RabbitBroker(address, clock=clock, worker_id=worker_id)
