"""The queues of one prefix: their names, their addresses, and which of them are paused.

Owns: PREFIX + queue, the same + `--dead` for dead letters and + `--long` for leases past twelve
hours, made when they are first needed; how often their jobs may be lost; and questions to SQS that
end in an answer or a `BrokerError`.
Must never: take a queue for open longer than `SEEN_SECONDS` after it looked.
Called by: the adapter and its inspector, and their polls in their threads.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from json import dumps
from math import inf
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError

from dibs.errors import BrokerError
from dibs.message import TaskInfo
from dibs.wires.aws.calls import Calls
from dibs.wires.aws.client import Address, Failure, failure_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

T = TypeVar("T")
DEAD = "--dead"
PAUSED = "dibs-paused"
LONG = "--long"
RESERVED = (DEAD, LONG)
SEEN_SECONDS = 5.0
LOOK_SECONDS = 300.0
MAX_LOST = 10
"""How often a message is lost by default before it is given up: each is a receive."""
MOST_RECEIVES = 1_000
"""The redrive policy's limit: the most that SQS takes, so that our own budgets decide before."""


class Queues:
    """Addresses, each asked for once."""

    def __init__(self, client: "SQSClient", address: Address, calls: Calls) -> None:
        self._client = client
        self._address = address
        self._calls = calls
        self._clock = calls.clock
        self._urls: dict[str, str] = {}
        self._open_until: dict[str, float] = {}
        self.losses: dict[str, int] = {}
        """How often a message of a queue may be lost at most, where that is known."""
        self._look_at = calls.clock.monotonic() + LOOK_SECONDS

    def expect(self, tasks: Iterable[TaskInfo]) -> None:
        """Note the budgets of tasks."""
        for task in tasks:
            self.losses[task.queue] = max(self.losses.get(task.queue, 0), task.max_lost)

    def ask(self, calls: Sequence[Callable[[], T]], until: float | None = None) -> list[T]:
        """Return what each call answers, or raise as a `BrokerError` what kept one from it."""
        answers: list[T] = []
        until = self._calls.until() if until is None else until
        for answer in self._calls.all([(call, inf) for call in calls], until):
            if isinstance(answer, Exception):
                raise self.error(failure_of(answer)) from answer
            answers.append(answer)
        return answers

    def error(self, failure: Failure) -> BrokerError:
        """Return what to raise; where a queue is gone, every address is asked for again."""
        if "NonExistent" in failure.code or "DoesNotExist" in failure.code:
            self._urls.clear()
        return failure.error(self._address)

    def heed(self, said: list[Failure | None]) -> list[Failure | None]:
        """Return what was said of entries; raise it if all failed, and surely had no effect.

        That a receipt is over is an answer, and no trouble.
        """
        failures = [one for one in said if one is not None and not one.over]
        errors = [self.error(one) for one in failures]
        if errors and len(errors) == len(said) and all(one.sure for one in failures):
            raise errors[0]
        return said

    def none_yet(self) -> bool:
        """Say whether the prefix has no queue; if that cannot be told, a later call says why."""
        try:
            return self.ask([self.names]) == [[]]
        except BrokerError:
            return False

    def long_of(self, queues: Sequence[str], until: float) -> list[str]:
        """Return where leases past twelve hours may lie, once in a while; most have no such place.

        Nobody waits there: what is there was somebody's, and is found only if it was left.
        """
        now = self._clock.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_SECONDS
        (names,) = self.ask([self.names], until)
        return [queue + LONG for queue in queues if queue + LONG in names]

    def urls(self, names: Iterable[str], until: float) -> dict[str, str]:
        """Return addresses, of queues that are made if they are not there."""
        wanted, known = set(names), self._urls.copy()  # a poll may have them forgotten meanwhile
        new = [name for name in wanted if name not in known]
        said = self.ask([partial(self.url, name) for name in new], until)
        return known | dict(zip(new, said, strict=True))

    def paused_of(self, queues: Iterable[str], until: float) -> set[str]:
        """Return those of some queues that are paused."""
        now = self._clock.monotonic()
        asked = [queue for queue in queues if now >= self._open_until.get(queue, now)]
        said = self.ask([partial(self.paused, queue) for queue in asked], until)
        return {queue for queue, paused in zip(asked, said, strict=True) if paused}

    # What follows asks SQS itself, and is for threads that may wait.

    def names(self) -> list[str]:
        """List the queues that are there, without the prefix."""
        prefix = self._address.prefix
        # Without a size of page, SQS names 1,000 queues and does not say that there are more.
        pages = self._client.get_paginator("list_queues").paginate(
            QueueNamePrefix=prefix, PaginationConfig={"PageSize": 1_000}
        )
        urls = [url for page in pages for url in page.get("QueueUrls", ())]
        return sorted(url.rpartition("/")[2].removeprefix(prefix) for url in urls)

    def url(self, queue: str) -> str:
        """Return the address of a queue, or of its dead letters."""
        if (known := self._urls.get(queue)) is not None:
            return known
        name = self._address.prefix + queue
        try:
            found = self._client.get_queue_url(QueueName=name)["QueueUrl"]
        except ClientError as error:
            code = failure_of(error).code
            if "NonExistent" not in code and "DoesNotExist" not in code:
                raise
            found = self._made(queue, name)
        self._urls[queue] = found
        return found

    def paused(self, queue: str) -> bool:
        """Say whether a queue is paused."""
        now = self._clock.monotonic()
        paused = PAUSED in self._client.list_queue_tags(QueueUrl=self.url(queue)).get("Tags", {})
        self._open_until[queue] = now if paused else now + SEEN_SECONDS
        return paused

    def pause(self, queue: str) -> None:
        """Pause a queue."""
        self._client.tag_queue(QueueUrl=self.url(queue), Tags={PAUSED: "yes"})
        self._open_until.pop(queue, None)

    def resume(self, queue: str) -> None:
        """Let a queue go on."""
        self._client.untag_queue(QueueUrl=self.url(queue), TagKeys=[PAUSED])

    def _made(self, queue: str, name: str) -> str:
        attributes: dict[QueueAttributeNameType, str] = {
            "MessageRetentionPeriod": str(14 * 24 * 3_600)
        }
        if not queue.endswith(RESERVED):
            asked = self._client.get_queue_attributes(
                QueueUrl=self.url(queue + DEAD), AttributeNames=["QueueArn"]
            )
            arn = asked["Attributes"]["QueueArn"]
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": MOST_RECEIVES}
            attributes["RedrivePolicy"] = dumps(policy)
        return self._client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
