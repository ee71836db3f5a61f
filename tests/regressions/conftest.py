"""The fixtures of the tests that this folder runs again, each on its fault."""

from tests.unit.redis.conftest import opener, running
from tests.unit.sqlite.conftest import broker, clock, open_broker, path
from tests.unit.sqs.conftest import front, server
from tests.unit.sqs.conftest import open_broker as open_sqs
from tests.unit.test_producer import app
from tests.worker.conftest import scene

__all__ = [
    "app",
    "broker",
    "clock",
    "front",
    "open_broker",
    "open_sqs",
    "opener",
    "path",
    "running",
    "scene",
    "server",
]
