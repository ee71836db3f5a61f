"""What the suite cannot hold: lost connections, a silent server, and what somebody did to it."""

import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from msgspec.structs import replace
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from dibs.brokers.contract import (
    CALL_LIMIT_SECONDS,
    Applied,
    Broker,
    Gone,
    Lost,
    Refused,
    Stale,
    Stored,
    Unknown,
)
from dibs.brokers.rabbitmq import RabbitBroker, inspector, open_rabbitmq, open_url
from dibs.clock import SystemClock
from dibs.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OptionError
from dibs.message import Ack, DeadLetter, Lease, Nack, Release, Settlement
from dibs.testing.clock import ManualClock
from dibs.testing.faults import Faults
from dibs.testing.making import ERROR, claim, claim_all, ids, message, messages, publish, settle
from dibs.testing.proxy import Proxy
from dibs.wires.amqp import frames, inbox, letters, post
from dibs.wires.amqp.address import address_of
from dibs.wires.amqp.post import KEEPING, MARK
from dibs.wires.amqp.press import Sheet
from tests.residue import leaves_nothing
from tests.servers.rabbitmq import Server
from tests.unit.rabbitmq.conftest import RUNGS_MS, Open
from tests.worker.scripted import PLAIN
from tests.worker.workers import until

DEEP = b"\x91" * 200_000 + b"\xc0"
JUNK = [
    b"",
    b"{}",
    b"\x00\xff junk",
    os.urandom(300_000),
    letters.write(letters.Body(message("named"))).replace(b"named", b"na\xffed"),
    letters.write(letters.Body(message(), "nonsense")),
    letters.write(letters.Body(message(), "{}")),
    b"\x93" + letters.write(letters.Body(message()))[1:] + DEEP,
]
"""The last four are of the form of a message: one is not UTF-8, of two nobody can tell how they
have failed, one is nested too deeply."""

ODD_HEADERS = {
    "date_in_ms": b"T" + (1_700_000_000_000).to_bytes(8, "big"),
    "no_date": b"T" + bytes([255] * 8),
}
SOON_SECONDS = 1.0
WRITTEN_SECONDS = post.WRITTEN_SECONDS


@contextmanager
def channel_of(url: str) -> Iterator[BlockingChannel]:
    """Somebody else's channel on the server."""
    connection = BlockingConnection(URLParameters(url.partition("?")[0]))
    yield connection.channel()
    connection.close()


def prefix_of(url: str) -> str:
    return url.rpartition("=")[2]


def claimed(broker: Broker, count: int, within: float | None = None) -> list[Lease]:
    """Claim until so many came: what a server gives back takes a moment."""
    leases: list[Lease] = []

    def more() -> bool:
        try:
            leases.extend(claim(broker, limit=count - len(leases)))
        except BrokerUnavailable:
            return False
        return len(leases) == count

    until(more, f"{count} messages come", within)
    return leases


def with_header(value: bytes) -> bytes:
    """Return properties with one header, whose type and value are these bytes."""
    table = b"\x02at" + value
    return (1 << 13).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table


def bodies_of(channel: BlockingChannel, queue: str) -> list[tuple[Any, bytes]]:
    """Take all that lies in a queue."""
    found = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((properties, body))


def test_rule_25_a_worker_and_an_idle_producer_outlive_a_restart(
    server: Server, open_one: Open
) -> None:
    """Nobody opens anything anew, and the bell of whoever waits says that there is to look."""
    worker, producer = open_one(), open_one()
    publish(producer, *messages(3))
    done, *held = claim(worker, limit=3)
    assert settle(worker, done, Ack()) == Applied()
    worker.bell()
    assert claim(worker, limit=10) == []
    assert select.select([worker.bell()], [], [], 0)[0] == []
    server.stop()
    assert select.select([worker.bell()], [], [], SOON_SECONDS)[0]
    with pytest.raises(BrokerUnavailable):
        worker.claim(["photos"], 10)
    server.start()
    again = claimed(worker, 2)
    assert ids(again) == ids(held)
    assert [lease.lost for lease in again] == [1, 1]
    assert claim(worker, limit=10) == [], "whoever got all that it asked for does not wait yet"
    assert producer.publish([one := message()]) == [Stored()]
    assert select.select([worker.bell()], [], [], SOON_SECONDS)[0]
    assert ids(claim(worker, limit=10)) == [one.id]


def test_rule_10_what_was_acknowledged_or_stored_outlives_a_killed_server(
    server: Server, url: str, open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first message of a new queue on, and also what is delayed or dead."""
    monkeypatch.setattr(post, "WRITTEN_SECONDS", WRITTEN_SECONDS)
    broker = open_one()
    kept = publish(broker, *messages(20))
    done = publish(broker, *messages(20))
    leases = claim(broker, limit=40)
    for lease in leases:
        if lease.message.id in ids(done):
            assert settle(broker, lease, Ack()) == Applied()
    later = publish(broker, message(due_ms=SystemClock().wall_ms() + 100))
    given_up, *leases = (lease for lease in leases if lease.message.id in ids(kept))
    assert settle(broker, given_up, DeadLetter("rejected", ERROR, "nothing")) == Applied()
    kept = [lease.message for lease in leases]
    server.kill()
    server.start()
    with channel_of(url) as channel:
        assert len(bodies_of(channel, f"{prefix_of(url)}.dead.photos")) == 1
    assert sorted(ids(claimed(broker, 20))) == sorted(ids([*kept, *later]))
    assert claim_all(broker) == []


@pytest.mark.parametrize(("done", "asked"), [(31, 0), (32, 2)])
def test_rule_10_many_acknowledgements_around_a_held_one_are_written_down(
    open_one: Open, url: str, monkeypatch: pytest.MonkeyPatch, done: int, asked: int
) -> None:
    """From 32 commands on, the server's channel keeps more to itself until those are written down:
    a server that was killed right after brought 266 of 299 back, in one run of four.
    """
    worker, sent = open_one(), bytearray()
    publish(worker, *messages(1 + done))
    held, *leases = claimed(worker, 1 + done)
    assert worker._inbox is not None
    send = worker._inbox.send
    monkeypatch.setattr(worker._inbox, "send", lambda data: (sent.extend(data), send(data)))
    assert worker.settle([Settlement(lease, Ack()) for lease in leases]) == [Applied()] * done
    assert sent.count(frames.asked(f"{prefix_of(url)}.q.photos")) == asked
    assert sent.endswith(frames.asked(f"{prefix_of(url)}.empty"))
    assert settle(worker, held, Ack()) == Applied()
    assert claim_all(open_one()) == []


def test_what_a_queue_gives_that_is_asked_whether_it_has_written_is_granted(
    open_one: Open,
) -> None:
    """It is asked by a `get`, which it may answer with a message."""
    worker = open_one()
    publish(worker, *messages(60))
    held, *done = claimed(worker, 40)
    assert worker.settle([Settlement(lease, Ack()) for lease in done]) == [Applied()] * 39
    leases = claimed(worker, 20)
    assert [(lease.lost, lease.fence) for lease in leases] == [(0, 1)] * 20
    assert [settle(worker, lease, Ack()) for lease in (held, *leases)] == [Applied()] * 21
    assert claim_all(open_one()) == []


def test_what_a_queue_gives_that_is_claimed_from_no_more_goes_to_others(open_one: Open) -> None:
    """It would ring for ever."""
    worker = open_one()
    publish(worker, *messages(60))
    worker.bell()
    held, *done = claimed(worker, 40)
    assert claim(worker, limit=0) == []
    assert worker.settle([Settlement(lease, Ack()) for lease in done]) == [Applied()] * 39
    assert worker._inbox is not None
    assert worker._inbox.buffered() == 2
    assert worker.claim(["mails"], 5).leases == []
    assert select.select([worker.bell()], [], [], 0)[0] == []
    leases = claimed(open_one(), 20)
    assert [(lease.lost, lease.fence) for lease in leases] == [(0, 1)] * 20
    assert settle(worker, held, Ack()) == Applied()


def test_what_comes_while_something_is_settled_rings(open_one: Open) -> None:
    """Its bytes are read then, and its socket says no more of it."""
    worker, other = open_one(), open_one()
    publish(other, *messages(2))
    worker.bell()
    done, held = claimed(worker, 2)
    assert claim(worker, limit=5) == []
    publish(other, new := message())
    assert select.select([worker.bell()], [], [], SOON_SECONDS)[0]
    assert settle(worker, done, Ack()) == Applied()
    assert select.select([worker.bell()], [], [], 0)[0]
    assert ids(claim(worker, limit=5)) == [new.id]
    assert settle(worker, held, Ack()) == Applied()


def test_a_queue_that_others_noted_is_not_waited_for(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_one().declare(["photos"])
    monkeypatch.setattr(post, "WRITTEN_SECONDS", 60.0)
    assert bounded(lambda: open_one().publish([message()])) == [Stored()]


def test_a_new_queue_that_takes_longer_than_a_call_is_waited_for_by_the_next(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call outlasts its limit, and the wait does not begin anew."""
    monkeypatch.setattr(post, "WRITTEN_SECONDS", CALL_LIMIT_SECONDS + 1)
    broker = open_one()
    assert isinstance(bounded(lambda: broker.publish([message()])), BrokerUnavailable)
    assert bounded(lambda: broker.publish([message()])) == [Stored()]


def test_a_new_queue_is_waited_for_anew_over_another_connection(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have been killed in between, and have forgotten it."""
    monkeypatch.setattr(post, "WRITTEN_SECONDS", 1.0)
    broker = open_one()
    with ThreadPoolExecutor(1) as aside:
        first = aside.submit(bounded, lambda: broker.publish([message()]))
        until(lambda: broker._post._unwritten, "the queue is made")
        made_at = time.monotonic()
        assert broker._press is not None
        with socket.socket(fileno=os.dup(broker._press.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        assert isinstance(first.result(), BrokerUnavailable)
    until(lambda: time.monotonic() > made_at + 1.0, "the first wait would be over")
    began = time.monotonic()
    assert broker.publish([message()]) == [Stored()]
    assert time.monotonic() - began >= 1.0


def test_a_user_without_a_right_is_refused_and_not_waited_for(
    server: Server, url: str, open_one: Open
) -> None:
    """No worker gets a right by trying again. In turn: to configure, to write, to read."""
    publish(open_one(), message())
    server.control("add_user", "shy", "secret")
    shy = url.replace("guest:guest", "shy:secret")
    for missing in range(3):
        rights = ["^$" if place == missing else ".*" for place in range(3)]
        server.control("set_permissions", "shy", *rights)
        with (
            pytest.raises(BrokerRefused, match=r"ACCESS_REFUSED.*give it the rights of docs"),
            closing(open_url(shy, clock=SystemClock(), worker_id=os.urandom(16))) as broker,
        ):
            claim(broker)


def test_rule_09_leases_of_a_lost_connection_settle_nothing_and_harm_nobody(
    server: Server, open_one: Open
) -> None:
    """An old tag would close the channel, and give back what is held there."""
    broker = open_one()
    publish(broker, *messages(3))
    old = claim(broker, limit=3)
    server.stop()
    server.start()
    new = claimed(broker, 3)
    assert [settle(broker, lease, Ack()) for lease in old] == [Stale()] * 3
    assert broker.extend(old) == [Lost()] * 3
    assert [settle(broker, lease, Ack()) for lease in new] == [Applied()] * 3


def test_rule_09_a_holder_that_was_given_up_stores_no_copies(open_one: Open) -> None:
    """It was silent for two heartbeats, and still has time by its own clock. What the server said
    before it hung up is read first, and does not say that it did.
    """
    holder, other = open_one(), open_one()
    publish(other, *messages(3, visibility_timeout_ms=60_000))
    holder.expect([replace(PLAIN, visibility_timeout_ms=9_000)])
    leases = claim(holder, limit=3)
    again = claimed(other, 3, 3 * 3 + 2)
    outcomes = (Nack(0, ERROR), Release(), DeadLetter("rejected", ERROR, "nothing"))
    ends = [Settlement(lease, end) for lease, end in zip(leases, outcomes, strict=True)]
    assert Applied() not in holder.settle(ends)
    assert [settle(other, lease, Ack()) for lease in again] == [Applied()] * 3
    assert claim_all(other) == []


def test_rule_23_the_jobs_of_a_silent_holder_are_back_after_three_heartbeats(
    server: Server, url: str, open_one: Open
) -> None:
    """One is a third of the shortest lease that it expects: else it would be ten seconds."""
    other = open_one()
    publish(other, message(visibility_timeout_ms=9_000))
    with Proxy("127.0.0.1", server.port) as proxy:
        through = f"{server.url(proxy.port)}?prefix={prefix_of(url)}"
        holder = open_url(through, clock=SystemClock(), worker_id=os.urandom(16))
        holder.expect([replace(PLAIN, visibility_timeout_ms=9_000)])
        (lease,) = claim(holder)
        proxy.suffer(Faults(stalled=True))
        (again,) = claimed(other, 1, 3 * 3 + 2)
        assert ids([again]) == ids([lease])
        proxy.heal()
        assert settle(holder, lease, Ack()) == Stale()
        holder.close()


def test_b12_losing_the_connection_again_and_again_leaves_nothing_behind(
    server: Server, url: str
) -> None:
    """celery 10277: each reconnect leaked."""
    with Proxy("127.0.0.1", server.port) as proxy:
        through = f"{server.url(proxy.port)}?prefix={prefix_of(url)}"
        broker = open_url(through, clock=SystemClock(), worker_id=os.urandom(16))
        broker.bell()
        broker.declare(["photos"])

        def works() -> bool:
            with suppress(BrokerUnavailable):
                claim(broker)
                publish(broker, message("mails"))
                return True
            return False

        def once() -> None:
            proxy.reset()
            until(works, "it works again")

        leaves_nothing(once)
        broker.close()


def test_rule_26_a_silent_server_is_given_up_in_time(server: Server, open_one: Open) -> None:
    """Each call ends within its limit; what had left may have arrived, and is called unknown."""
    broker, producer, holder, other = (open_one() for _ in range(4))
    publish(producer, *messages(2))
    (lease,) = claim(holder)
    broker.declare(["photos"])
    server.signal(signal.SIGSTOP)
    try:
        calls = {
            "publish": lambda: producer.publish([message()]),
            "settle": lambda: settle(holder, lease, Ack()),
            "claim": lambda: broker.claim(["photos"], 1),
            "extend": lambda: other.extend([lease]),
            "open": open_one,
        }
        with ThreadPoolExecutor() as at_once:
            answers = dict(zip(calls, at_once.map(bounded, calls.values()), strict=True))
    finally:
        server.signal(signal.SIGCONT)
    assert answers["publish"] == [Unknown()]
    assert answers["settle"] == Unknown()
    assert isinstance(answers["claim"], BrokerUnavailable)
    assert isinstance(answers["open"], BrokerUnavailable)
    until(lambda: stored(broker), "it works again", 10)


def test_rule_26_who_holds_a_short_lease_waits_for_a_sixth_of_it(
    server: Server, open_one: Open
) -> None:
    """A late renewal loses a lease, so a call must leave time for the next ones."""
    broker = open_one()
    publish(broker, message(visibility_timeout_ms=6_000))
    (lease,) = claim(broker)
    server.signal(signal.SIGSTOP)
    try:
        answer = bounded(lambda: broker.extend([lease]), limit=1.0)
    finally:
        server.signal(signal.SIGCONT)
    assert isinstance(answer, BrokerUnavailable)


def bounded(call: Any, limit: float = CALL_LIMIT_SECONDS) -> object:
    """Return what a call answered or raised, within its limit."""
    began = time.monotonic()
    try:
        answer = call()
    except BrokerError as error:
        answer = error
    assert time.monotonic() - began < limit + 1.0
    return answer


def stored(broker: Broker) -> bool:
    try:
        return broker.publish([message("another")]) == [Stored()]
    except BrokerError:
        return False


def test_nobody_listens_and_a_wrong_password_are_said_without_it(server: Server) -> None:
    clock = SystemClock()
    at = f"127.0.0.1:{server.port}"
    for url, why in (
        ("amqp://u:hunter2@127.0.0.1:1/", "Connection refused"),
        (f"amqp://u:hunter2@{at}/", "ACCESS_REFUSED - Login was refused"),
        (f"amqp://guest:hunter2@{at}/", "(403): check user and password"),
        (f"amqp://guest:guest@{at}/hall", "NOT_ALLOWED - vhost hall not found (530): docs/"),
    ):
        with pytest.raises(BrokerUnavailable) as caught:
            open_url(url, clock=clock, worker_id=os.urandom(16))
        assert why in str(caught.value)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "hunter2" not in shown
        assert "127.0.0.1" in shown
        assert "\n" not in str(caught.value)


def test_whom_an_operator_cuts_off_is_told_the_reason_that_was_given(
    server: Server, open_one: Open
) -> None:
    """In the middle of a call: between two, the next one connects again."""
    broker = open_one()
    server.control("close_all_connections", "closed for cleaning")
    assert broker._press is not None
    reason = r"CONNECTION_FORCED - closed for cleaning \(320\)$"
    with pytest.raises(BrokerUnavailable, match=reason), broker._call():
        broker._press.wait(lambda: False)
    assert publish(broker, message())


def test_pikas_own_settings_open_the_same_queues(url: str, open_one: Open) -> None:
    (new,) = publish(open_one(), message())
    broker = open_rabbitmq(
        address_of(url).parameters,
        clock=SystemClock(),
        worker_id=os.urandom(16),
        prefix=prefix_of(url),
    )
    assert ids(claim(broker)) == [new.id]
    broker.close()


def test_what_lies_ahead_of_a_claim_goes_to_others_when_it_is_not_wanted(open_one: Open) -> None:
    """In its turn and uncounted: to be delivered is not to be run."""
    broker, other = open_one(), open_one()
    broker.bell()
    assert claim(broker, limit=50) == []
    publish(other, *messages(20))
    assert select.select([broker.bell()], [], [], SOON_SECONDS)[0]
    assert len(claim(broker, limit=1)) == 1
    rest = claimed(other, 19)
    assert {lease.lost for lease in rest} == {0}


def test_whoever_wants_nothing_more_is_given_nothing_when_it_has_room_again(open_one: Open) -> None:
    """A worker that stops settles what it still runs: what came then would wait for its end."""
    worker = open_one()
    publish(worker, *messages(10))
    worker.bell()
    leases = claimed(worker, 5)
    assert claim(worker, limit=0) == []
    assert [settle(worker, lease, Ack()) for lease in leases] == [Applied()] * 5
    others = claimed(open_one(), 5, SOON_SECONDS)
    assert [(lease.lost, lease.fence) for lease in others] == [(0, 1)] * 5


def test_whoever_wants_nothing_more_keeps_nothing_that_it_did_not_ask_for(open_one: Open) -> None:
    """What a queue gives that is asked whether it has written."""
    worker = open_one()
    publish(worker, *messages(60))
    worker.bell()
    held, *done = claimed(worker, 40)
    assert claim(worker, limit=0) == []
    assert worker.settle([Settlement(lease, Release()) for lease in done]) == [Applied()] * 39
    assert worker._inbox is not None
    assert worker._inbox.buffered() == 2
    worker.idle()
    others = claimed(open_one(), 59, SOON_SECONDS)
    assert {lease.lost for lease in others} == {0}
    assert settle(worker, held, Ack()) == Applied()


def test_rule_23_an_expired_lease_is_given_back_by_a_quiet_holder(open_one: Open) -> None:
    """The server knows no such time, and whoever holds it looks at the clock."""
    broker, other = open_one(), open_one()
    publish(broker, message(visibility_timeout_ms=1_000))
    (lease,) = claim(broker)

    def comes_back() -> list[Lease]:
        broker.idle()
        return claim(other)

    (again,) = until(comes_back, "it comes back")
    assert (again.lost, again.fence) == (1, lease.fence + 1)


def test_rule_34_what_cannot_be_read_is_a_dead_letter_with_its_bytes(
    url: str, open_one: Open
) -> None:
    """The next message is granted as if nothing was."""
    broker = open_one()
    broker.declare(["photos"])
    with channel_of(url) as channel:
        for junk in JUNK:
            channel.basic_publish("", f"{prefix_of(url)}.q.photos", junk)
        (good,) = publish(broker, message())
        assert ids(claim_all(broker)) == [good.id]
        dead = bodies_of(channel, f"{prefix_of(url)}.dead.photos")
    assert [body for _, body in dead] == JUNK
    assert {properties.headers["reason"] for properties, _ in dead} == {"undecodable"}


@pytest.mark.parametrize("value", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_rule_34_what_has_headers_that_cannot_be_read_is_a_dead_letter_with_its_bytes(
    url: str, open_one: Open, value: bytes
) -> None:
    """Somebody else's program wrote them, and no worker may end of it."""
    broker, prefix = open_one(), prefix_of(url)
    broker.declare(["photos"])
    body = letters.write(letters.Body(message()))
    assert broker._press is not None
    sheet = Sheet("", f"{prefix}.q.photos", with_header(value), body)
    assert broker._press.print([sheet]) == ["stored"]
    (good,) = publish(broker, message())
    assert ids(claim_all(broker)) == [good.id]
    with channel_of(url) as channel:
        ((properties, dead),) = bodies_of(channel, f"{prefix}.dead.photos")
    assert dead == body
    assert properties.headers["reason"] == "undecodable"


def test_rule_34_what_cannot_be_read_and_nobody_wants_goes_back_as_it_came(
    url: str, open_one: Open
) -> None:
    """A worker that ends puts back what lies ahead, and does not end of that."""
    broker, name = open_one(), f"{prefix_of(url)}.q.photos"
    broker.bell()
    assert claim(broker, limit=50) == []
    assert broker._press is not None
    sheet = Sheet("", name, with_header(ODD_HEADERS["date_in_ms"]), b"junk")
    assert broker._press.print([sheet]) == ["stored"]
    assert select.select([broker.bell()], [], [], SOON_SECONDS)[0]
    assert claim(broker, limit=0) == []
    connection = open_one()._receiving()
    connection.fetch("photos", 1, name, KEEPING)
    ((_, held),) = connection.unsettled.items()
    assert (held.properties, held.body) == (sheet.properties, sheet.body)


def test_rule_16_a_dead_letter_says_why_in_its_headers(url: str, open_one: Open) -> None:
    """A person sees them on the server's own page, for dibs cannot list them here."""
    broker = open_one()
    publish(broker, message())
    settle(broker, claim(broker)[0], Nack(0, ERROR))
    settle(broker, claim(broker)[0], DeadLetter("max_attempts", ERROR, "failure"))
    with channel_of(url) as channel:
        ((properties, body),) = bodies_of(channel, f"{prefix_of(url)}.dead.photos")
    headers = properties.headers
    assert (headers["reason"], headers["failures"], headers["fence"]) == ("max_attempts", 2, 2)
    assert headers["error"] == f"{ERROR.type}: {ERROR.message}"
    assert json.dumps(ERROR.message).encode() in body


def test_rule_05_what_is_waited_for_comes_down_the_ladder(open_one: Open) -> None:
    """Not early, and at once when it is due."""
    broker = open_one()
    broker.bell()
    assert claim(broker, limit=10) == []
    due_ms = SystemClock().wall_ms() + 350
    publish(broker, message(due_ms=due_ms))

    def rung() -> list[Lease]:
        assert select.select([broker.bell()], [], [], SOON_SECONDS)[0], "nobody rang"
        return claim(broker, limit=10)

    until(rung, "it comes")
    assert due_ms <= SystemClock().wall_ms() <= due_ms + 500


def test_queues_that_somebody_deleted_are_made_again(url: str, open_one: Open) -> None:
    """The rung of a delayed message as well as the queue it goes to."""
    broker = open_one()
    publish(broker, message())
    with channel_of(url) as channel:
        for name in ("q.photos", *(f"delay.{ms}" for ms in RUNGS_MS)):
            channel.queue_delete(f"{prefix_of(url)}.{name}")
    later = message(due_ms=SystemClock().wall_ms() + 300)
    assert broker.publish([later, now := message()]) == [Stored(), Stored()]
    assert sorted(ids(claimed(broker, 2))) == sorted(ids([later, now]))


def test_a_queue_that_is_deleted_under_a_busy_worker_costs_it_no_lease(
    url: str, open_one: Open
) -> None:
    """To listen to it before it is made again would end the channel, and every lease with it."""
    worker, other = open_one(), open_one()
    publish(other, message(), message("mails"))
    worker.bell()
    queues = ["photos", "mails"]
    leases = worker.claim(queues, 5).leases
    assert len(leases) == 2
    with channel_of(url) as channel:
        channel.queue_delete(f"{prefix_of(url)}.q.photos")
    assert select.select([worker.bell()], [], [], SOON_SECONDS)[0]
    publish(other, new := message("mails"))
    more: list[Lease] = []
    until(lambda: more.extend(worker.claim(queues, 5).leases) or more, "the new one comes")
    assert ids(more) == [new.id]
    assert [settle(worker, lease, Ack()) for lease in leases] == [Applied()] * 2


def test_what_was_stored_beside_what_has_no_queue_is_said(url: str, open_one: Open) -> None:
    """An error means that nothing was."""
    broker = open_one()
    publish(broker, message())
    now = SystemClock().wall_ms()
    with channel_of(url) as channel:
        for ms in RUNGS_MS:
            name = f"{prefix_of(url)}.delay.{ms}"
            channel.queue_delete(name)
            channel.queue_declare(name)
    assert broker.publish([message(due_ms=now + 5_000), message()]) == [Unknown(), Stored()]
    with pytest.raises(BrokerRefused, match="of another kind"):
        broker.publish([message(due_ms=now + 5_000)])


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_that_somebody_made_otherwise_is_refused(
    url: str, open_one: Open, kind: str
) -> None:
    """A classic queue would lose jobs with its node."""
    with channel_of(url) as channel:
        name = f"{prefix_of(url)}.q.photos"
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
        broker = open_one()
        for refused in (lambda: broker.declare(["photos"]), lambda: publish(broker, message())):
            with pytest.raises(BrokerRefused, match=r"delete it, or choose another `\?prefix=`"):
                refused()
        channel.queue_delete(name)
    broker.declare(["photos"])


def test_the_mark_that_nobody_can_do_without_is_on_more_than_one_node(
    url: str, open_one: Open
) -> None:
    """A classic queue is gone with its node, and then no connection could be opened anywhere."""
    open_one()
    classic = {**MARK, "x-queue-type": "classic"}
    with channel_of(url) as channel, pytest.raises(ChannelClosedByBroker, match="x-queue-type"):
        channel.queue_declare(f"{prefix_of(url)}.store", durable=True, arguments=classic)


def test_whoever_opens_asks_the_mark_and_leaves_nothing_behind_in_it(
    url: str, open_one: Open
) -> None:
    """A quorum queue takes the first of its messages before it knows that it is full."""
    for _ in range(10):
        publish(open_one(), message())
    with channel_of(url) as channel:
        assert len(bodies_of(channel, f"{prefix_of(url)}.store")) <= 2


def test_a_store_whose_mark_is_a_classic_queue_goes_on(url: str, open_one: Open) -> None:
    with channel_of(url) as channel:
        channel.queue_declare(f"{prefix_of(url)}.store", durable=True, arguments=MARK)
        channel.exchange_declare(f"{prefix_of(url)}.names", durable=True)
        (new,) = publish(open_one(), message())
        assert ids(claim(open_one())) == [new.id]


def test_a_timeout_that_the_server_would_cut_short_is_refused(url: str) -> None:
    """By what the URL says of the server, which AMQP cannot be asked."""
    long = message(timeout_ms=1_700_000)
    for option, answer in (("", Refused), ("&consumer_timeout=3600", Stored)):
        broker = open_url(url + option, clock=SystemClock(), worker_id=os.urandom(16))
        (found,) = broker.publish([long])
        assert isinstance(found, answer)
        broker.close()


def test_rule_32_a_server_without_memory_takes_no_jobs_and_lets_all_be_finished(
    server: Server, open_one: Open
) -> None:
    """A full server is an error at once, and no false promise; acknowledgements go through."""
    broker, worker = open_one(), open_one()
    publish(broker, *messages(2))
    (first,) = claim(worker)
    server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        until(lambda: full(broker), "the server says that it is full", 10)
        assert settle(worker, first, Ack()) == Applied()
        (second,) = claimed(worker, 1)
        assert settle(worker, second, Ack()) == Applied()
    finally:
        server.control("set_vm_memory_high_watermark", "0.4")
    until(lambda: stored(broker), "it takes jobs again", 10)


def test_rule_32_a_server_without_memory_keeps_what_is_delayed_with_the_server(
    server: Server, url: str, open_one: Open
) -> None:
    """What came down the ladder and cannot go on lies here, is not drawn in beyond the room, rings
    nobody, and goes on when the server takes messages again.
    """
    broker, clock = open_one(), ManualClock(SystemClock().wall_ms())
    worker = RabbitBroker(address_of(url), clock=clock, worker_id=b"w" * 16, rungs_ms=RUNGS_MS)
    later = publish(broker, *messages(20, due_ms=clock.wall_ms() + 3_600_000))
    worker.bell()
    server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        until(lambda: full(broker), "the server says that it is full", 10)
        until(lambda: (claim(worker, limit=2), held_by(worker))[1], "one has come down")
        for _ in range(30):
            assert claim(worker, limit=2) == []
            assert held_by(worker) <= 6
        until(lambda: quiet(worker, 2), "nobody rings")
        until(lambda: quiet(worker, 1), "nobody rings who has room for less than lies here")
    finally:
        server.control("set_vm_memory_high_watermark", "0.4")
    until(lambda: stored(broker), "it takes jobs again", 10)
    clock.advance(3_600_000)
    assert sorted(ids(claimed(worker, 20))) == sorted(ids(later))
    worker.close()


def test_rule_14_what_was_never_granted_counts_as_no_loss(url: str) -> None:
    """What is sent on makes room for the next message, and the server counts it as given back if
    its consumer ends just then. One look in a hundred or so met that.
    """
    clock = ManualClock(SystemClock().wall_ms())
    worker = RabbitBroker(address_of(url), clock=clock, worker_id=b"w" * 16, rungs_ms=(10,))
    publish(worker, *messages(100, due_ms=clock.wall_ms() + 3_600_000))
    for _ in range(2):
        until(lambda: ready(worker) > 50, "most have come down")
        assert claim(worker, limit=1) == []
    clock.advance(3_600_000)
    leases = claimed(worker, 100)
    assert [(lease.lost, lease.fence) for lease in leases] == [(0, 1)] * 100
    worker.close()


def test_rule_14_what_a_pause_sends_back_counts_as_no_loss(url: str, open_one: Open) -> None:
    """Here, too, what is ended makes room, and the consumer ends just then."""
    broker, clock = open_one(), ManualClock(SystemClock().wall_ms())
    worker = RabbitBroker(address_of(url), clock=clock, worker_id=b"w" * 16, rungs_ms=RUNGS_MS)
    worker.bell()
    for _ in range(5):
        assert claim(worker, limit=5) == []
        publish(broker, *messages(20))
        until(lambda: held_by(worker) == 5 or worker.idle(), "it has what it asked for")
        broker.inspector().pause("photos")
        clock.advance(1_000)  # it looks anew
        assert claim(worker, limit=5) == []
        broker.inspector().resume("photos")
        leases = claimed(broker, 20)
        assert [(lease.lost, lease.fence) for lease in leases] == [(0, 1)] * 20
        broker.settle([Settlement(lease, Ack()) for lease in leases])
        clock.advance(1_000)
    worker.close()


def test_rule_11_an_acknowledgement_is_written_down_whatever_becomes_of_what_is_beside_it(
    server: Server, open_one: Open
) -> None:
    """To store the copy of a retry can fail. The answer to the other is no guess then."""
    publish(open_one(), *messages(2))
    worker = open_one()
    done, failed = claim(worker, limit=2)
    both = [Settlement(done, Ack()), Settlement(failed, Nack(100, ERROR))]
    server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        until(lambda: full(worker), "the server says that it is full", 10)
        assert worker.settle(both) == [Applied(), Unknown()]
    finally:
        server.control("set_vm_memory_high_watermark", "0.4")
    until(lambda: stored(worker), "it takes jobs again", 10)
    assert worker.settle(both) == [Gone(), Applied()]


def test_the_names_of_queues_outlive_any_number_of_looks(
    url: str, open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is a delivery of every name, and a queue drops what was delivered too often."""
    monkeypatch.setattr(inspector, "WORN", 3)
    broker = open_one()
    broker.declare(["mails", "photos"])
    for _ in range(8):
        assert [one.name for one in broker.inspector().queues()] == ["mails", "photos"]
    with channel_of(url) as channel:
        found = bodies_of(channel, f"{prefix_of(url)}.queues")
    assert sorted(body for _, body in found) == [b"mails", b"photos"]
    assert all(_times_given_back(properties) <= 3 for properties, _ in found)


def _times_given_back(properties: Any) -> int:
    return (properties.headers or {}).get("x-delivery-count", 0)


def test_a_connection_remembers_no_consumer_that_has_ended(open_one: Open) -> None:
    """A worker whose wishes change makes one after the other, for months."""
    broker = open_one()
    broker.bell()
    for limit in (1, 10, 100) * 5:
        assert claim(broker, limit=limit) == []
    assert broker._inbox is not None
    assert len(broker._inbox._by_name) == 1
    (new,) = publish(open_one(), message())
    assert ids(claimed(broker, 1)) == [new.id]


def test_a_connection_remembers_a_bounded_number_of_returns(
    open_one: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old lease whose end is forgotten is stale, whatever it was: never gone by mistake."""
    monkeypatch.setattr(inbox, "_REMEMBERED", 4)
    broker = open_one()
    publish(broker, message())
    back: list[Lease] = []
    for _ in range(10):
        back += claimed(broker, 1)
        assert settle(broker, back[-1], Release()) == Applied()
    (done,) = claimed(broker, 1)
    assert settle(broker, done, Ack()) == Applied()
    assert broker._inbox is not None
    assert len(broker._inbox._came_back) == 4
    assert [settle(broker, lease, Ack()) for lease in back] == [Stale()] * 10
    assert settle(broker, done, Ack()) == Gone()


def test_a_lost_connection_takes_no_memory_of_whoever_asks_again(open_one: Open) -> None:
    """Its error is one object, which is raised to each of them."""
    broker = open_one()
    assert claim(broker) == []
    assert broker._inbox is not None
    with socket.socket(fileno=os.dup(broker._inbox.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    for _ in range(20):
        broker.idle()
    assert broker._inbox.why is not None
    assert len(list(traceback.walk_tb(broker._inbox.why.__traceback__))) < 10


def held_by(broker: RabbitBroker) -> int:
    assert broker._inbox is not None
    return len(broker._inbox.unsettled)


def ready(broker: RabbitBroker) -> int:
    (counts,) = broker.inspector().queues()
    return counts.ready or 0


def quiet(broker: RabbitBroker, limit: int) -> bool:
    assert claim(broker, limit=limit) == []
    return select.select([broker.bell()], [], [], 0)[0] == []


def test_what_cannot_be_sent_on_costs_nobody_what_was_granted_beside_it(
    url: str, open_one: Open
) -> None:
    """A lease of which the caller does not hear would run out; and the rest is not forgotten."""
    broker, worker, prefix = open_one(), open_one(), prefix_of(url)
    due_ms = SystemClock().wall_ms() + 1_000
    early = message()
    sheet = Sheet(
        "",
        f"{prefix}.q.photos",
        letters.properties_of(letters.Past(due_ms=due_ms)),
        letters.write(letters.Body(early)),
    )
    broker.declare(["photos"])
    assert broker._press is not None
    assert broker._press.print([sheet]) == ["stored"]
    (now,) = publish(broker, message())
    with channel_of(url) as channel:
        for ms in RUNGS_MS:
            channel.queue_delete(f"{prefix}.delay.{ms}")
            channel.queue_declare(f"{prefix}.delay.{ms}")
        assert ids(claim(worker, limit=2)) == [now.id]
        with pytest.raises(BrokerRefused, match="of another kind"):
            worker.claim(["photos"], 2)
        for ms in RUNGS_MS:
            channel.queue_delete(f"{prefix}.delay.{ms}")
    assert ids(claimed(worker, 1)) == [early.id]
    assert due_ms <= SystemClock().wall_ms()


def full(broker: RabbitBroker) -> bool:
    try:
        broker.publish([message("another")])
    except BrokerFull:
        return True
    return False


def test_more_than_a_batch_is_refused(open_one: Open) -> None:
    broker = open_one()
    with pytest.raises(OptionError, match="at most"):
        broker.publish(messages(broker.capabilities.batch_limit + 1))
