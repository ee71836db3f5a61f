"""The reference broker: queues in the memory of one process, meant to be read.

Called by: `brokers.url` for `memory://NAME`, the conformance suite and its state machine.
"""

from dibs.brokers.memory.broker import MemoryBroker, open_memory
from dibs.brokers.memory.store import MemoryStore

__all__ = ["MemoryBroker", "MemoryStore", "open_memory"]
