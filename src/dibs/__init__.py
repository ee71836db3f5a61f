"""dibs: one job, one worker at a time, until it is acknowledged."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dibs import backoff, errors
    from dibs.app import App
    from dibs.control import Reject, Retry, Snooze
    from dibs.delivery import BoundCall, Delivery
    from dibs.job import Job
    from dibs.ledger import once
    from dibs.running import context
    from dibs.task import Task

__all__ = [
    "App",
    "BoundCall",
    "Delivery",
    "Job",
    "Reject",
    "Retry",
    "Snooze",
    "Task",
    "backoff",
    "context",
    "errors",
    "once",
]
__version__ = "0.1.0"

_HOMES = {
    "App": "dibs.app",
    "BoundCall": "dibs.delivery",
    "Delivery": "dibs.delivery",
    "Job": "dibs.job",
    "Reject": "dibs.control",
    "Retry": "dibs.control",
    "Snooze": "dibs.control",
    "Task": "dibs.task",
    "context": "dibs.running",
    "once": "dibs.ledger",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the worker's pump must not pay for the user's side."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("backoff", "errors"):
        return importlib.import_module(f"dibs.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
