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
from dibs.wires.aws.moves import Place

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
        self._urls: dict[str, str] = {}
        self._open_until: dict[str, float] = {}
        self.losses: dict[str, int] = {}
        """How often a message of a queue may be lost at most, where that is known."""
        self._look_at = calls.now() + LOOK_SECONDS

    def expect(self, tasks: Iterable[TaskInfo]) -> None:
        """Note the budgets of tasks."""
        for task in tasks:
            self.losses[task.queue] = max(self.losses.get(task.queue, 0), task.max_lost)

    def until(self) -> float:
        """Return when questions that begin now, one after the other, must all be answered."""
        return self._calls.until()

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
        """Return what to raise."""
        return failure.error(self._address)

    def why(self, failure: Failure) -> str:
        """Return what to answer where nothing is raised: what failed is in no other entry's way."""
        return str(self.error(failure))

    def heed(self, said: Sequence[Failure | None], *, answers: bool) -> Sequence[Failure | None]:
        """Return what was said of entries; raise it if none could be sent, as nobody is there.

        Without `answers`, raise it also if all were refused: surely, they had no effect.
        """
        failures = [one for one in said if one and (one.away if answers else one.sure)]
        if failures and len(failures) == len(said):
            raise self.error(failures[0])
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
        now = self._calls.now()
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_SECONDS
        (names,) = self.ask([self.names], until)
        return [queue + LONG for queue in queues if queue + LONG in names]

    def places(self, names: Iterable[str], until: float) -> dict[str, Place]:
        """Return addresses, of queues that are made if they are not there, or why one has none."""
        wanted, known = set(names), self._urls.copy()  # a poll may have one forgotten meanwhile
        new = [name for name in wanted if name not in known]
        said = self._each(self.url, new, until)
        return {name: said[name] if name in said else known[name] for name in wanted}

    def urls(self, names: Iterable[str], until: float) -> dict[str, Place]:
        """Return addresses, or raise as a `BrokerError` why one of them cannot be had."""
        places = self.places(names, until)
        for place in places.values():
            if isinstance(place, Failure):
                raise self.error(place)
        return places

    def shut_of(self, queues: Iterable[str], until: float) -> dict[str, Failure | None]:
        """Return those of some queues that nobody may claim from: why not, or None if paused."""
        now = self._calls.now()
        asked = [queue for queue in queues if now >= self._open_until.get(queue, now)]
        said = self._each(self.paused, asked, until).items()
        return {q: None if answer is True else answer for q, answer in said if answer is not False}

    def _each(
        self, question: Callable[[str], T], names: Sequence[str], until: float
    ) -> dict[str, T | Failure]:
        """Ask the same of each queue, since one that does not answer is in no other's way."""
        said = self._calls.all([(partial(question, name), inf) for name in names], until)
        return {
            name: failure_of(answer) if isinstance(answer, Exception) else answer
            for name, answer in zip(names, said, strict=True)
        }

    def heard(self, url: Place, answer: object) -> None:
        """Have what is known of a queue asked for anew, if this answer says that there is none."""
        if isinstance(answer, ClientError) and failure_of(answer).missing:
            for name, known in self._urls.copy().items():
                if known == url:
                    self._urls.pop(name, None)
                    self._open_until.pop(name, None)

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
            if not failure_of(error).missing:
                raise
            found = self._made(queue, name)
        self._urls[queue] = found
        return found

    def at(self, url: str, verb: Callable[..., T], **asked: object) -> T:
        """Make one request of the queue at an address."""
        try:
            return verb(QueueUrl=url, **asked)
        except ClientError as error:
            self.heard(url, error)
            raise

    def paused(self, queue: str) -> bool:
        """Say whether a queue is paused."""
        now = self._calls.now()
        tags = self.at(self.url(queue), self._client.list_queue_tags).get("Tags", {})
        paused = PAUSED in tags
        self._open_until[queue] = now if paused else now + SEEN_SECONDS
        return paused

    def pause(self, queue: str) -> None:
        """Pause a queue."""
        self.at(self.url(queue), self._client.tag_queue, Tags={PAUSED: "yes"})
        self._open_until.pop(queue, None)

    def resume(self, queue: str) -> None:
        """Let a queue go on."""
        self.at(self.url(queue), self._client.untag_queue, TagKeys=[PAUSED])

    def _made(self, queue: str, name: str) -> str:
        attributes: dict[QueueAttributeNameType, str] = {
            "MessageRetentionPeriod": str(14 * 24 * 3_600)
        }
        if not queue.endswith(RESERVED):
            verb = self._client.get_queue_attributes
            asked = self.at(self.url(queue + DEAD), verb, AttributeNames=["QueueArn"])
            arn = asked["Attributes"]["QueueArn"]
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": MOST_RECEIVES}
            attributes["RedrivePolicy"] = dumps(policy)
        return self._client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
