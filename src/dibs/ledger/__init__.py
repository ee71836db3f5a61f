"""The ledger: a table in your own database that says which effects are done.

docs/idempotency.md says what it is for; `dibs.once` is `once`.
"""

from dibs.ledger.entry import Entry, once
from dibs.ledger.table import CREATE_TABLE, prune

__all__ = ["CREATE_TABLE", "Entry", "once", "prune"]
