"""`dibs doctor`: a broker that keeps its promises passes, and one that breaks them is found out."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest
from msgspec.structs import replace

from dibs.brokers.contract import Broker, Claim, Finding, Published, Refused
from dibs.brokers.memory import MemoryBroker, MemoryStore
from dibs.cli.probe import QUEUE, probe
from dibs.clock import SystemClock
from dibs.message import Message, Release, Settlement
from tests.conformance.wrong_brokers import PopDelete, UnfencedAck
from tests.servers import postgres, redis, sqs
from tests.servers.missing import not_installed
from tests.servers.ports import free_port

Run = Callable[..., "subprocess.CompletedProcess[str]"]
KEPT = ["publish", "exclusive", "lease", "stale ack", "ack"]


def found(kind: type[MemoryBroker]) -> list[Finding]:
    store = MemoryStore("probed")
    first, second = (kind(store, SystemClock(), os.urandom(16), created=False) for _ in range(2))
    findings = list(probe(first, second, SystemClock()))
    first.close()
    second.close()
    return findings


class Refuses(MemoryBroker):
    """Stores nothing."""

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        return [Refused("full") for _ in messages]


class Shares(MemoryBroker):
    """Grants to one and leaves it to the others."""

    def claim(self, queues: Sequence[str], limit: int) -> Claim:
        claim = super().claim(queues, limit)
        self.settle([Settlement(lease, Release()) for lease in claim.leases])
        return claim


class CountsNothing(MemoryBroker):
    """Gives every lease the same fence."""

    def claim(self, queues: Sequence[str], limit: int) -> Claim:
        claim = super().claim(queues, limit)
        return Claim([replace(lease, fence=1) for lease in claim.leases], claim.next_in)


def test_a_broker_that_keeps_the_contract_is_good_in_everything() -> None:
    findings = found(MemoryBroker)
    assert [finding.what for finding in findings] == KEPT
    assert {finding.verdict for finding in findings} == {"good"}


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Refuses, "publish"),
        (Shares, "exclusive"),
        (PopDelete, "lease"),
        (UnfencedAck, "stale ack"),
        (CountsNothing, "fence"),
    ],
)
def test_a_broker_that_breaks_a_promise_is_told_by_its_name(
    kind: type[MemoryBroker], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dibs.cli.probe.LATE_SECONDS", 0.2)
    bad = [finding.what for finding in found(kind) if finding.verdict == "bad"]
    assert what in bad


def test_a_queue_file_is_tried_and_its_settings_are_read(dibs: Run, broker: Broker) -> None:
    done = dibs("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
    assert {*KEPT, "durability", "SQLite", "settings", "file system"} == findings.keys()
    assert "bad" not in {one["verdict"] for one in findings.values()}
    (left,) = (queue for queue in broker.inspector().queues() if queue.name == QUEUE)
    assert (left.ready, left.in_flight, left.dead) == (0, 0, 0)


def test_what_a_person_reads_is_a_line_for_each_finding(dibs: Run, broker: Broker) -> None:
    done = dibs("doctor")
    assert broker.url.removeprefix("sqlite:///") in done.stdout.splitlines()[0]
    assert re.search(r"^ok +stale ack +refused by the broker$", done.stdout, re.MULTILINE)


def test_a_place_without_a_queue_file_is_not_made_one(dibs: Run) -> None:
    done = dibs("doctor", "--url", "sqlite:///nowhere.db")
    assert done.returncode == 2
    assert "there is no queue file" in done.stderr


def test_queues_in_sqs_are_tried_and_their_settings_are_read(dibs: Run) -> None:
    with sqs.serving() as server:
        done = dibs("doctor", "--json", "--url", server.url("doctor-"), **sqs.KEYS)
        left = dibs("queues", "--json", "--url", server.url("doctor-"), **sqs.KEYS)
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    probed = {one["what"]: one["verdict"] for one in findings if one["what"] in KEPT}
    assert probed == dict.fromkeys(KEPT, "good")
    (stale,) = (one["found"] for one in findings if one["what"] == "stale ack")
    assert stale == "refused by dibs, which never sends it"
    assert f"the redrive policy of {QUEUE}" in {one["what"] for one in findings}
    (queue,) = json.loads(left.stdout)["queues"]
    assert (queue["name"], queue["ready"], queue["in_flight"]) == (QUEUE, 0, 0)


@contextmanager
def evicting() -> Iterator[str]:
    """The URL of a Redis that drops jobs when its memory is full."""
    if redis.program() is None:
        not_installed("Redis", "redis-server")
    with redis.serving("--maxmemory-policy", "allkeys-lru") as server:
        yield server.url()


@contextmanager
def replica() -> Iterator[str]:
    """The URL of a Redis that follows another, which it has not met."""
    if redis.program() is None:
        not_installed("Redis", "redis-server")
    with redis.serving("--replicaof", "127.0.0.1", str(free_port())) as server:
        yield server.url()


@contextmanager
def unsynchronous() -> Iterator[str]:
    """The URL of a PostgreSQL that confirms before it has written."""
    binaries = postgres.programs()
    if binaries is None:
        not_installed("PostgreSQL", "postgresql")
    with postgres.serving(binaries, "synchronous_commit=off") as server:
        yield server.url("postgres")


@pytest.mark.parametrize(
    ("serving", "setting", "value"),
    [
        (evicting, "maxmemory-policy", "allkeys-lru"),
        (replica, "role", "slave"),
        (unsynchronous, "synchronous_commit", "off"),
    ],
)
def test_a_setting_that_the_broker_refuses_is_a_row_among_the_others_and_ends_with_1(
    dibs: Run, serving: Callable[[], AbstractContextManager[str]], setting: str, value: str
) -> None:
    """The probe is not made, and a row says so."""
    with serving() as url:
        done = dibs("doctor", "--url", url)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(rf"^BAD +{setting} +{value}$", done.stdout, re.MULTILINE)
    assert re.search(r"^BAD +probe +not made: its queue is refused$", done.stdout, re.MULTILINE)
    assert re.search(r"^ok ", done.stdout, re.MULTILINE)
    assert not re.search(r"^\w+ +publish ", done.stdout, re.MULTILINE)


def test_a_server_that_is_not_there_is_one_line_and_ends_with_2(dibs: Run) -> None:
    done = dibs("doctor", "--url", f"redis://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
