"""A lease carried on past the twelve hours that SQS gives to one receive.

Owns: the queue PREFIX + queue + `--long`, where a copy takes the place of what was received. In
its own queue a copy would be anybody's, or lie behind a backlog; there it is received at once by
whoever sent it.
Must never: send a second copy while the first may yet be met, or give up the old receipt: that is
its holder's to do, once the new one is had.
Called by: the SQS adapter, when it extends a lease that grows old.

A holder that dies between the two leaves a copy there that nobody holds, as one that dies later
does: claims look there every few minutes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dibs.wires.aws.calls import Calls
from dibs.wires.aws.client import Failure
from dibs.wires.aws.moves import Item, Place

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CEILING_SECONDS = 12 * 3_600 - 60
FRESH_MS = 60_000
"""Marks a copy as its sender's to receive first: whoever else meets it leaves it where it is."""
_TRIES = 5
_WAIT_SECONDS = 1
"""A receive that waits looks at all of SQS's servers, and ends as soon as there is something."""


class Carrier:
    """Sends copies away and meets them. `heard` is told of each answer, as that of `Moves` is."""

    def __init__(
        self, client: "SQSClient", calls: Calls, heard: Callable[[Place, object], None]
    ) -> None:
        self._client = client
        self._calls = calls
        self._heard = heard

    def met(
        self, copy: Item, sent: str | None, seconds: int, until: float
    ) -> tuple[str | None, str | None]:
        """Send a copy, unless one was `sent`, and receive it for `seconds`.

        Return the id of what was sent and is not met yet, and the receipt of what is met.
        """
        if isinstance(copy.url, Failure):
            return sent, None
        if sent is None:
            sent = self._answer(copy, partial(self._send, copy.url, copy.entry), until)
        if sent is None:
            return None, None
        call = partial(self._receive, copy.url, sent, seconds, until)
        receipt = self._answer(copy, call, until)
        return (sent, None) if receipt is None else (None, receipt)

    def _answer(self, copy: Item, call: Callable[[], str | None], until: float) -> str | None:
        (answer,) = self._calls.all([(call, copy.before)], until)
        self._heard(copy.url, answer)
        return None if isinstance(answer, Exception) else answer

    def _send(self, url: str, entry: Mapping[str, Any]) -> str:
        return self._client.send_message(QueueUrl=url, **entry)["MessageId"]

    def _receive(self, url: str, sent: str, seconds: int, until: float) -> str | None:
        for _ in range(_TRIES):
            got = self._client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=seconds,
                WaitTimeSeconds=_WAIT_SECONDS,
            ).get("Messages", [])  # fmt: skip
            receipts = {one.get("MessageId"): one.get("ReceiptHandle", "") for one in got}
            mine = receipts.pop(sent, None)
            for handle in receipts.values():
                self._client.change_message_visibility(
                    QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
                )
            if mine is not None:
                return mine
            if self._calls.now() + 2 * _WAIT_SECONDS > until:
                break  # what is met after that, nobody waits for
        return None
