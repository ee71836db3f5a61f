"""A consumer of one's own, without the worker: claim, do, settle, wait for the bell.

`python own_consumer.py` takes the jobs of the README's queue; Ctrl-C ends it. It claims one job at
a time, so it needs no heartbeat as long as a job takes less than its visibility timeout (30 s).
"""

import json
import os
import select

from dibs.brokers.contract import Applied, Broker
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.message import Ack, Error, Lease, Nack, Outcome, Settlement

SAFETY_POLL_SECONDS = 1.0
"""A bell can be lost with the process that rang it."""


def handle(lease: Lease) -> Outcome:
    """Do one job."""
    try:
        arguments = json.loads(lease.message.args)
        print(lease.message.task, arguments, "attempt", lease.attempt, flush=True)
    except Exception as error:
        return Nack(5_000, Error(type(error).__name__, str(error)))
    return Ack()


def consume(broker: Broker, queue: str) -> None:
    """Take jobs for ever."""
    bell = broker.bell()
    while True:
        claim = broker.claim([queue], limit=1)
        for lease in claim.leases:
            (answer,) = broker.settle([Settlement(lease, handle(lease))])
            if not isinstance(answer, Applied):
                print("another holder has this job by now:", answer)
        if not claim.leases:
            due = SAFETY_POLL_SECONDS if claim.next_in is None else claim.next_in
            select.select([bell], [], [], min(due, SAFETY_POLL_SECONDS))


if __name__ == "__main__":
    opened = open_broker("sqlite:///photos.db", worker_id=os.urandom(16), clock=SystemClock())
    try:
        consume(opened, "photos")
    except KeyboardInterrupt:
        opened.close()
