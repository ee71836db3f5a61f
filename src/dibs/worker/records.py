"""What is done already: the records of idempotency keys, looked up before a job is run.

Owns: which of the leases of a claim are not run, because what their keys name is done.
Must never: settle what it could not look up, or cost a job without a key more than one look.
Called by: the pump, after each claim that granted something.
"""

from dibs.brokers.contract import Broker
from dibs.errors import BrokerError
from dibs.events import AlreadyDone, Observer
from dibs.idempotency import record_id
from dibs.message import ENVELOPE_VERSION, Ack, Lease, Release, Result, TaskInfo
from dibs.worker.patience import Patience
from dibs.worker.settler import Settler


class Records:
    """Looks up the keys of leases, all those of a claim at once."""

    def __init__(
        self,
        broker: Broker,
        settler: Settler,
        tasks: dict[str, TaskInfo],
        patience: Patience,
        observe: Observer,
    ) -> None:
        self._broker = broker
        self._settler = settler
        self._tasks = tasks
        self._patience = patience
        self._observe = observe

    def sift(self, leases: list[Lease]) -> tuple[list[Lease], bool]:
        """Return the leases that are to be run, and whether the broker was asked for any.

        What is recorded as done is acknowledged with the result that was recorded. What cannot be
        looked up is given back, uncounted.
        """
        keyed = [lease for lease in leases if lease.message.headers and self._knows(lease)]
        keys = {lease.message.id: key for lease in keyed if (key := record_id(lease.message))}
        if not keys:
            return leases, False
        try:
            # Each once: of two jobs of one key that somebody published by hand, both are answered.
            asked = list(dict.fromkeys(keys.values()))
            records = dict(zip(asked, self._broker.results(asked), strict=True))
        except BrokerError as exc:
            self._patience.failed(exc)
            for lease in leases:
                if lease.message.id in keys:
                    self._settler.add(lease, Release())
            return [lease for lease in leases if lease.message.id not in keys], True
        return self._sifted(leases, {id: records[key] for id, key in keys.items()}), True

    def _knows(self, lease: Lease) -> bool:
        """Whether the header of a job means here what it means to its producer."""
        message = lease.message
        return message.task in self._tasks and message.version == ENVELOPE_VERSION

    def _sifted(self, leases: list[Lease], records: dict[bytes, Result | None]) -> list[Lease]:
        left: list[Lease] = []
        for lease in leases:
            record = records.get(lease.message.id)
            if record is None or not record.kept:
                left.append(lease)
            else:
                self._settler.add(lease, self._acknowledged(lease, record))
        if len(left) < len(leases):
            self._observe(AlreadyDone(len(leases) - len(left)))
        return left

    def _acknowledged(self, lease: Lease, record: Result) -> Ack:
        """Return the end of a job that is not run; the record stays as it is, and as old."""
        if record.value is None:
            return Ack()
        return Ack(record.value, self._tasks[lease.message.task].keep_result_ms)
