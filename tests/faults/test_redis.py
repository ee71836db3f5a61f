"""Faults done to Redis."""

from tests.faults.short import ShortPass


class TestRedis(ShortPass):
    name = "redis"
