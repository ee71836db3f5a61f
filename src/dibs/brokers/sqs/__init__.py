"""Amazon SQS, and whatever speaks as it does.

Called by: `brokers.url` for `sqs://REGION/PREFIX`, and whoever brings a boto3 client.
"""

from typing import TYPE_CHECKING

from dibs.brokers.sqs.broker import SqsBroker
from dibs.clock import Clock
from dibs.wires.aws.client import READ_SECONDS, Address, address_of, client_at
from dibs.wires.aws.receives import POLL_SECONDS

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

__all__ = ["SqsBroker", "open_sqs", "open_url"]


def open_url(url: str, *, clock: Clock, worker_id: bytes) -> SqsBroker:
    """Open `sqs://REGION/PREFIX[?endpoint=...]`; credentials are found by boto3's own chain."""
    del worker_id
    address = address_of(url)
    client = client_at(address, READ_SECONDS, 10)
    polling = client_at(address, POLL_SECONDS + READ_SECONDS, 32)
    return SqsBroker(client, polling, address, clock)


def open_sqs(
    client: "SQSClient", prefix: str, *, clock: Clock, polling: "SQSClient | None" = None
) -> SqsBroker:
    """Use ready-made clients; `polling` is for requests that wait 20 s, else the same one is."""
    address = Address(client.meta.region_name, prefix)
    return SqsBroker(client, polling or client, address, clock)
