"""Faults done to RabbitMQ."""

import pytest

from tests.faults.short import ShortPass

pytest.importorskip("dibs.brokers.rabbitmq")


class TestRabbitMq(ShortPass):
    name = "rabbitmq"
