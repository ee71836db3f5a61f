"""Which broker a command means, and that it can mean it.

Owns: the order of `--url`, the app's own, DIBS_URL and the default; and what is refused for a
broker that only one process sees.
Must never: make a queue file for somebody who only wants to look.
Called by: `worker.py`, `enqueue.py`, `selecting.py`, `doctor.py`, `migrate.py`.
"""

import os

from dibs.brokers.contract import Broker
from dibs.brokers.url import absolute, open_broker
from dibs.clock import SystemClock
from dibs.errors import BrokerUnavailable, UserError


def opened(url: str) -> Broker:
    """Open the broker at `url`, as a holder of its own.

    Raises:
        UserError: it is in the memory of one process, and so of no use to a command.
    """
    refuse_private(url)
    return open_broker(url, worker_id=os.urandom(16), clock=SystemClock())


def refuse_private(url: str) -> None:
    """Refuse a broker that only one process sees.

    Raises:
        UserError: it is in the memory of one process, and so of no use to a command.
    """
    if absolute(url).startswith("memory:"):
        raise UserError(
            f"{url} is in the memory of one process: this one, where no other can put a job"
            " or take one. Use a broker that processes share, as in `--url sqlite:///dibs.db`, or"
            " work in the process that enqueues, with `app.worker()`"
        )


def opened_to_look(url: str, *, named: bool) -> Broker:
    """Open the broker at `url`, which the user has `named`, or has not, if it is there already.

    Raises:
        BrokerUnavailable: it is a file, and there is none.
    """
    place = absolute(url)
    path = place.removeprefix("sqlite:///")
    if path != place and not os.path.isdir(folder := os.path.dirname(path)):
        raise BrokerUnavailable(f"there is no folder {folder}, and so no queue file there")
    if path != place and not os.path.exists(path):
        hint = "" if named else " Else name the app, as in `dibs queues photos:app`, or `--url`"
        raise BrokerUnavailable(
            f"there is no queue file {path}: the first job that is enqueued makes it. Is this the"
            f" right folder?{hint}"
        )
    return opened(url)


def url_of(app_path: str | None, url: str | None) -> str:
    """Return `url`, or that of the app, or what an app of no URL would use.

    An app that is named is imported beside `url` too: one that is not there is a mistake.

    Raises:
        AppNotFound, AppImportFailed: as the import of the app says.
    """
    if app_path is not None:
        from dibs.loading import import_app

        own = import_app(app_path).url
        return own if url is None else url
    if url is not None:
        return url
    from dibs.app import App

    return App().url
