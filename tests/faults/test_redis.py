"""Faults done to Redis."""

import pytest

from tests.faults.short import ShortPass

pytest.importorskip("dibs.brokers.redis")


class TestRedis(ShortPass):
    name = "redis"
