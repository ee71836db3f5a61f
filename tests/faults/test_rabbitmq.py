"""Faults done to a RabbitMQ server, in short."""

from tests.faults.short import ShortPass


class TestRabbitMq(ShortPass):
    name = "rabbitmq"
