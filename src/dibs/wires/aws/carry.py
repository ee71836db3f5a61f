"""A lease carried on past the twelve hours that SQS gives to one receive.

Owns: the queue PREFIX + queue + `--long`, where a copy takes the place of what was received. In
its own queue a copy would be anybody's, or lie behind a backlog; there it is received at once by
whoever sent it.
Must never: give up the old receipt before the new one is had.
Called by: the SQS adapter, through its calls, when it extends a lease that grows old.

A holder that dies between the two leaves a copy there that nobody holds, as one that dies later
does: claims look there every few minutes.
"""

from typing import TYPE_CHECKING

from dibs.wires.aws.moves import Item

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CEILING_SECONDS = 12 * 3_600 - 60
FRESH_MS = 60_000
"""How long a copy is its sender's to receive, and nobody else's."""
_TRIES = 5


def carried_on(client: "SQSClient", copy: Item, seconds: int, old_url: str, old: str) -> str | None:
    """Send a copy, receive it for `seconds`, delete the old; return its receipt.

    None: the copy was not met; another holder of an old lease has it for a moment.
    """
    sent = client.send_message(QueueUrl=copy.url, **copy.entry)["MessageId"]
    for _ in range(_TRIES):
        got = client.receive_message(
            QueueUrl=copy.url, MaxNumberOfMessages=10, VisibilityTimeout=seconds, WaitTimeSeconds=0
        ).get("Messages", [])
        receipts = {one.get("MessageId"): one.get("ReceiptHandle", "") for one in got}
        mine = receipts.pop(sent, None)
        for handle in receipts.values():
            client.change_message_visibility(
                QueueUrl=copy.url, ReceiptHandle=handle, VisibilityTimeout=0
            )
        if mine is not None:
            client.delete_message(QueueUrl=old_url, ReceiptHandle=old)
            return mine
    return None
