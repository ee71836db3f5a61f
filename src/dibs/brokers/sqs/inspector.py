"""What lies in the queues of a prefix, roughly, and what they are set to.

Must never: call `PurgeQueue`, which kills what is in flight too.
Called by: `SqsBroker`, and whoever looks after queues.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from dibs.brokers import checks
from dibs.brokers.contract import Answered, Finding, Inspector, Page
from dibs.clock import Clock
from dibs.errors import BrokerRefused, OptionError
from dibs.message import JobView, QueueCounts
from dibs.states import State
from dibs.wires.aws.queues import DEAD, MAX_LOST, MOST_RECEIVES, RESERVED, Queues

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DAY_SECONDS = 24 * 3_600
MAX_SIZE, LEAST_SIZE = 1_048_576, 131_072


class SqsInspector(Inspector):
    """Counts are SQS's own approximations, up to a minute old."""

    def __init__(self, client: "SQSClient", queues: Queues, clock: Clock) -> None:
        self._client = client
        self._queues = queues
        self._clock = clock
        self._ask = queues.ask

    def queues(self) -> list[QueueCounts]:
        """Return the counts of every queue of the prefix, by name."""
        until = self._queues.until()
        (names,) = self._ask([self._queues.names], until)
        alive = [name for name in names if not name.endswith(RESERVED)]
        dead = [name + DEAD for name in alive if name + DEAD in names]
        settings = self._ask([partial(self._settings, name) for name in (*alive, *dead)], until)
        tags = self._ask([partial(self._queues.paused, name) for name in alive], until)
        found = dict(zip((*alive, *dead), settings, strict=True))
        return [
            QueueCounts(name, *_counts(found[name]), _ready(found.get(name + DEAD)), None, paused)
            for name, paused in zip(alive, tags, strict=True)
        ]

    def check(self, queues: Sequence[str]) -> int:
        """Make queues; return the size of message that all of them take.

        Raises:
            BrokerRefused: one of them is set to what would lose jobs.
        """
        if odd := [queue for queue in queues if queue.endswith(RESERVED)]:
            raise OptionError(f"queue name {odd[0]!r}: what ends so is for dibs itself")
        names = [name for queue in queues for name in (queue, queue + DEAD)]
        settings = self._ask([partial(self._settings, name) for name in names])
        for name, found in zip(names, settings, strict=True):
            for one in _findings(name, found, self._queues.losses.get(name, MAX_LOST)):
                if one.verdict == "bad":
                    raise BrokerRefused(f"{one.what} is {one.found}: {one.advice}")
        return min((int(s.get("MaximumMessageSize", MAX_SIZE)) for s in settings), default=MAX_SIZE)

    def findings(self) -> list[Finding]:
        """Return what the queues of the prefix are set to."""
        until = self._queues.until()
        (names,) = self._ask([self._queues.names], until)
        settings = self._ask([partial(self._settings, name) for name in names], until)
        pairs = zip(names, settings, strict=True)
        endpoint = self._client.meta.endpoint_url
        plain = endpoint.startswith("http://")
        advice = "what is sent there can be read on the way: use https" if plain else ""
        way = Finding("the endpoint", endpoint, "note" if plain else "good", advice)
        return [way, *(one for name, found in pairs for one in _findings(name, found))]

    def jobs(
        self, queue: str | None, state: State, limit: int = 100, after: str | None = None
    ) -> Page:
        """Refuse: see `Capabilities.browsing`."""
        del queue, state, limit, after
        _refuse()

    def job(self, id: bytes) -> JobView | None:
        """Refuse: see `Capabilities.browsing`."""
        del id
        _refuse()

    def redrive(self, ids: Sequence[bytes]) -> list[Answered]:
        """Refuse: see `Capabilities.browsing`."""
        del ids
        _refuse()

    def discard(self, ids: Sequence[bytes]) -> int:
        """Refuse: see `Capabilities.browsing`."""
        del ids
        _refuse()

    def purge(self, queue: str) -> int:
        """Receive and delete what is ready, ten at a time, until a receive brings nothing.

        What is scheduled stays: only SQS's own purge reaches it, and that kills what is in flight.
        What was sent after the purge began, by our clock, is not deleted; it is back in a while.
        """
        began_ms, count = self._clock.wall_ms(), 0
        (names,) = self._ask([self._queues.names])
        while queue in names:
            (found,) = self._ask([partial(self._purged, queue, began_ms)])
            if not found:
                break
            count += found
        return count

    def pause(self, queue: str) -> None:
        """Tag a queue: everybody sees it before the next claim that is more than 5 s later."""
        checks.queue_names([queue])
        self._ask([partial(self._queues.pause, queue)])

    def resume(self, queue: str) -> None:
        """Take the tag away."""
        until = self._queues.until()
        (names,) = self._ask([self._queues.names], until)
        if queue in names:
            self._ask([partial(self._queues.resume, queue)], until)

    def _settings(self, name: str) -> dict[str, str]:
        url, verb = self._queues.url(name), self._client.get_queue_attributes
        asked = self._queues.at(url, verb, AttributeNames=["All"])
        return {str(key): value for key, value in asked.get("Attributes", {}).items()}

    def _purged(self, queue: str, began_ms: int) -> int:
        url = self._queues.url(queue)
        got = self._queues.at(
            url, self._client.receive_message, MaxNumberOfMessages=10, WaitTimeSeconds=0,
            VisibilityTimeout=30, MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])  # fmt: skip
        sent = [int(one.get("Attributes", {}).get("SentTimestamp", 0)) for one in got]
        handles = [
            one.get("ReceiptHandle", "")
            for one, at in zip(got, sent, strict=True)
            if at <= began_ms
        ]
        if not handles:
            return 0
        answer = self._client.delete_message_batch(
            QueueUrl=url,
            Entries=[{"Id": str(n), "ReceiptHandle": one} for n, one in enumerate(handles)],
        )
        return len(answer.get("Successful", ()))


def _refuse() -> NoReturn:
    raise OptionError("this broker cannot show or move single jobs: SQS has no way to look at one")


def _ready(found: dict[str, str] | None) -> int | None:
    return int(found.get("ApproximateNumberOfMessages", 0)) if found is not None else None


def _counts(found: dict[str, str]) -> tuple[int, int, int]:
    """Return ready, scheduled and in flight."""
    of = "ApproximateNumberOfMessages"
    ready, later, held = (int(found.get(of + kind, 0)) for kind in ("", "Delayed", "NotVisible"))
    return ready, later, held


def _findings(name: str, found: dict[str, str], max_lost: int = MAX_LOST) -> list[Finding]:
    """Judge what a queue is set to, of whose messages some are given up after so many losses."""
    days = int(found.get("MessageRetentionPeriod", 0)) / DAY_SECONDS
    size = int(found.get("MaximumMessageSize", MAX_SIZE))
    findings = [
        _judged(
            f"the retention of {name}", f"{days:g} days", days >= 1, days >= 14,
            "SQS drops what is older: set MessageRetentionPeriod to 1209600, 14 days",
        ),
        _judged(
            f"the largest message of {name}", f"{size:,} bytes", size >= LEAST_SIZE,
            size >= MAX_SIZE, f"set MaximumMessageSize to {MAX_SIZE}; dibs keeps 65,536 of it",
        ),
    ]  # fmt: skip
    if policy := json.loads(found.get("RedrivePolicy") or "{}"):
        most = int(policy.get("maxReceiveCount", 0))
        short = max(max_lost, most)
        way = f"set maxReceiveCount to {MOST_RECEIVES}"
        if short >= MOST_RECEIVES:
            way = f"lower that to {MOST_RECEIVES - 1} at most, or remove the policy"
        advice = f"SQS takes a job away before a max_lost of {short:,} is used up: {way}"
        what = f"the redrive policy of {name}"
        said = f"after {most:,} receives"
        findings.append(_judged(what, said, most > max_lost, most >= MOST_RECEIVES, advice))
    return findings


def _judged(what: str, found: str, lawful: bool, best: bool, advice: str) -> Finding:
    if not lawful:
        return Finding(what, found, "bad", advice)
    return Finding(what, found, "good") if best else Finding(what, found, "note", advice)
