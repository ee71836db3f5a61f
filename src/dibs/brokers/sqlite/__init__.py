"""The embedded broker: one SQLite file, no server.

Called by: `brokers.url`, and whoever opens a queue file by hand.
"""

from pathlib import Path

from dibs.brokers.contract import Broker
from dibs.brokers.sqlite.broker import SqliteBroker
from dibs.clock import Clock

__all__ = ["SqliteBroker", "open_sqlite"]


def open_sqlite(path: Path, *, clock: Clock, worker_id: bytes) -> Broker:
    """Open the queue file at `path`, making it if need be; its folder must be there."""
    return SqliteBroker(path, clock=clock, worker_id=worker_id)
