"""Events as log records, for workers that run inside somebody else's program.

Owns: the level of each event on the logger `dibs`; the sentences are those of `sentences.py`.
Must never: configure logging, the program does; or log a job's arguments, which may be secrets.
Called by: `embedded.py`, as its observer.
"""

import logging

from dibs.events import (
    AlreadyDone,
    BrokerBack,
    BrokerTrouble,
    Event,
    Holding,
    JobFailed,
    LeaseLost,
    RunnerCondemned,
    RunnerDied,
    RunnerNotStarted,
    Settled,
    Stopping,
    TaskSlow,
    TaskUnknown,
)
from dibs.text import counted
from dibs.worker.sentences import counts_of, describe, traceback_of

_logger = logging.getLogger("dibs")


def log_event(event: Event) -> None:
    """Log one event; settlements, and what is held, are counted elsewhere and told at DEBUG."""
    match event:
        case Settled():
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("%s", counts_of(event))
        case Holding(jobs):
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("%s held here", counted(jobs, "job"))
        case JobFailed():
            _logger.error("%s\n%s", describe(event), traceback_of(event).rstrip())
        case RunnerDied() | RunnerNotStarted() | RunnerCondemned():
            _logger.error("%s", describe(event))
        case LeaseLost() | BrokerTrouble():
            _logger.error("%s", describe(event))
        case TaskUnknown() | TaskSlow():
            _logger.warning("%s", describe(event))
        case BrokerBack() | Stopping() | AlreadyDone():
            _logger.info("%s", describe(event))
