"""A message may be leased to one who waits for it by the script that stores it."""

import os
import select
import socket
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NoReturn

import pytest

from dibs.brokers.contract import APPLIED, STALE, Duplicate, Gone
from dibs.brokers.redis import RedisBroker
from dibs.errors import BrokerUnavailable, PublishUnknown
from dibs.message import Ack, Lease, Message, Release
from dibs.testing import ManualClock
from dibs.testing.making import (
    VISIBILITY_MS,
    claim,
    claim_one,
    ids,
    message,
    messages,
    publish,
    settle,
)
from dibs.testing.proxy import Proxy
from dibs.wires.resp.address import address_of
from dibs.wires.resp.link import NoAnswer
from tests.servers.redis import RedisServer
from tests.worker.workers import until

CLOCK = "local function read_clock() return tonumber(redis.call('GET', KEYS[1] .. 'clock')) end"
_numbers = count()


class Place:
    """A namespace whose time a test moves, and brokers on it."""

    def __init__(self, server: RedisServer) -> None:
        self.clock = ManualClock()
        self.client = server.client()
        self.prefix = f"handover{next(_numbers)}"
        self._url = server.url()
        self._opened: list[RedisBroker] = []
        self.client.set(f"{self.prefix}:clock", self.clock.wall_ms())

    def open(self, url: str = "", worker_id: bytes = b"") -> RedisBroker:
        address, _ = address_of(url or self._url, {})
        name = worker_id or os.urandom(16)
        broker = RedisBroker(address, self.prefix, clock=self.clock, worker_id=name, now=CLOCK)
        self._opened.append(broker)
        return broker

    def waiting(self, *queues: str, url: str = "") -> RedisBroker:
        """Open one that waits for these queues, since after all others, and has found nothing."""
        self.advance(1)
        broker = self.open(url)
        broker.bell()
        assert claim(broker, *queues or ("photos",), limit=5) == []
        return broker

    def silence(self, broker: RedisBroker) -> None:
        """End the connection of a bell, and wait until the server has noticed."""
        channel = f"{self.prefix}:bell:{broker._bell._waiter}"
        broker._bell.take_down()
        until(lambda: not dict(self.client.pubsub_numsub(channel))[channel.encode()], "it is gone")

    def deafen(self, broker: RedisBroker, proxy: Proxy) -> None:
        """Let a bell be dead and neither its waiter nor the server be told: it counts as heard."""
        proxy.vanish()
        broker._link.close()

    def advance(self, ms: int) -> None:
        self.advance_server(ms)
        self.clock.advance(ms)

    def advance_server(self, ms: int) -> None:
        self.client.incrby(f"{self.prefix}:clock", ms)

    def held(self, queue: str = "photos") -> int:
        return int(self.client.zcard(f"{self.prefix}:held:{queue}"))

    def wishes(self) -> int:
        """Count who may be handed a message."""
        return int(self.client.hlen(f"{self.prefix}:idle"))

    def notes(self) -> list[int]:
        """Return for how many ms each note is kept of who was told of what."""
        return [self.client.pttl(key) for key in self.client.scan_iter(f"{self.prefix}:handed:*")]

    def scripts_of(self, call: Callable[[], object]) -> int:
        """Count the scripts that the server runs."""
        before = self.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        call()
        return int(self.client.info("commandstats")["cmdstat_evalsha"]["calls"] - before)

    def close(self) -> None:
        for broker in self._opened:
            broker.close()
        self.client.close()


@pytest.fixture
def proxy(running: RedisServer) -> Iterator[Proxy]:
    """What is between a waiter and the server."""
    with Proxy("127.0.0.1", running.port) as between:
        yield between


@pytest.fixture
def place(running: RedisServer) -> Iterator[Place]:
    made = Place(running)
    yield made
    made.close()


def rung(broker: RedisBroker, seconds: float = 5) -> bool:
    return bool(select.select([broker.bell()], [], [], seconds)[0])


def test_what_is_published_for_one_who_waits_is_leased_by_the_same_script(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message("videos"))  # the server knows the script by now
    new = message(args=b'{"path":"a.jpg"}', headers={"trace": "1"}, unique_key="a")
    assert place.scripts_of(lambda: publish(publisher, new)) == 1
    assert place.held() == 1
    assert claim(place.open(), limit=2) == []
    assert rung(waiter)
    leases: list[Lease] = []
    assert place.scripts_of(lambda: leases.extend(claim(waiter, limit=2))) == 0
    (lease,) = leases
    assert lease.message == new
    assert (lease.fence, lease.attempt) == (1, 1)
    assert settle(place.open(), lease, Ack()) == APPLIED
    assert settle(waiter, lease, Ack()) == Gone()


def test_it_is_the_same_lease_as_one_that_was_claimed(place: Place) -> None:
    new = message(priority=3, visibility_timeout_ms=7_000, timeout_ms=9_000, max_lost=2)
    waiter, other = place.waiting(), place.open()
    publish(other, new)
    assert rung(waiter)
    handed = claim_one(waiter)
    settle(waiter, handed, Release())
    granted = claim_one(other)
    assert type(handed.receipt) is type(granted.receipt)
    assert (granted.message, granted.fence) == (handed.message, handed.fence + 1)
    assert (granted.expiry_ms, granted.receipt) == (handed.expiry_ms, handed.receipt)


def test_a_lease_that_was_handed_over_runs_out_as_any_other(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message())
    assert rung(waiter)
    lease = claim_one(waiter)
    place.advance(VISIBILITY_MS - 1)
    assert claim(publisher) == []
    place.advance(1)
    again = claim_one(publisher)
    assert (again.fence, again.lost) == (2, 1)
    assert settle(waiter, lease, Ack()) == STALE


def test_each_message_goes_to_another_waiter(place: Place) -> None:
    publisher, waiters = place.open(), [place.waiting() for _ in range(3)]
    for _ in range(3):
        place.advance(1)
        publish(publisher, message())
    assert place.held() == 3
    assert all(rung(one) for one in waiters)
    assert [len(claim(one, limit=2)) for one in waiters] == [1, 1, 1]


def test_of_two_that_were_given_one_name_one_is_handed_a_message(place: Place) -> None:
    publisher, waiters = place.open(), [place.open(worker_id=b"one") for _ in range(2)]
    for one in waiters:
        one.bell()
        assert claim(one, limit=2) == []
    publish(publisher, message())
    (woken,) = select.select([one.bell() for one in waiters], [], [], 5)[0]
    assert [len(claim(one, limit=2)) for one in waiters] == [one.bell() == woken for one in waiters]


def test_nothing_more_is_handed_to_a_waiter_before_it_claims_again(place: Place) -> None:
    """Nor of another queue that it waits for; but it is rung."""
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    photo, video = message(), message("videos")
    publish(publisher, photo)
    publish(publisher, video)
    assert (place.held(), place.held("videos")) == (1, 0)
    assert rung(waiter)
    assert ids(claim(waiter, "photos", "videos", limit=5)) == [photo.id]
    publish(publisher, message())
    assert place.held() == 1
    assert rung(waiter)
    assert len(claim(waiter, "photos", "videos", limit=5)) == 2


def test_a_waiter_that_has_something_is_rung_and_nothing_is_handed_to_it(place: Place) -> None:
    """It may be busy with what it has, and what was handed over would wait for it."""
    publisher, waiter = place.open(), place.open()
    waiter.bell()
    publish(publisher, message())
    assert len(claim(waiter, limit=2)) == 1
    publish(publisher, message())
    assert place.held() == 1
    assert rung(waiter)
    assert len(claim(waiter, limit=2)) == 1


@pytest.mark.parametrize(
    "new",
    [
        [message(due_ms=ManualClock().wall_ms() + 10)],
        [message(args=b'"%s"' % (b"x" * 65_536))],
        messages(2),
    ],
    ids=["later", "long", "two"],
)
def test_what_is_no_single_short_message_for_now_is_stored_as_ever(
    place: Place, new: list[Message]
) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, *new)
    assert (place.held(), place.wishes()) == (0, 0)
    assert rung(waiter)
    place.advance(10)
    assert ids(claim(waiter, limit=5)) == ids(new)


def test_what_is_handed_over_does_not_overtake_what_falls_due(place: Place) -> None:
    publisher = place.open()
    first = publish(publisher, message(due_ms=place.clock.wall_ms() + 10))
    waiter = place.waiting()
    place.advance(10)
    last = publish(publisher, message())
    assert place.held() == 0
    assert rung(waiter)
    assert ids(claim(waiter, limit=5)) == ids([*first, *last])


def test_what_is_handed_over_does_not_overtake_what_is_ready(place: Place) -> None:
    """Another has been rung for it and does not come."""
    publisher, gone = place.open(), place.waiting()
    waiter = place.waiting()
    first = publish(publisher, *messages(2))
    last = publish(publisher, message())
    assert place.held() == 0
    assert rung(gone)
    assert rung(waiter)
    assert ids(claim(waiter, limit=5)) == ids([*first, *last])


def test_of_a_queue_that_is_paused_nothing_is_handed_over(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publisher.inspector().pause("photos")
    publish(publisher, message())
    assert place.held() == 0
    assert claim(waiter, limit=5) == []
    publisher.inspector().resume("photos")
    assert rung(waiter)
    assert len(claim(waiter, limit=5)) == 1


def test_a_duplicate_is_not_handed_over(place: Place) -> None:
    publisher = place.open()
    (whole,) = publish(publisher, message(unique_key="a"))
    assert claim_one(publisher).message == whole
    waiter = place.waiting()
    assert publisher.publish([message(unique_key="a")]) == [Duplicate(whole.id)]
    assert place.held() == 1
    assert claim(waiter, limit=2) == []


def test_of_a_queue_that_it_claims_from_no_more_nothing_is_handed_to_a_waiter(
    place: Place,
) -> None:
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    assert claim(waiter, "videos", limit=5) == []
    publish(publisher, message())
    assert place.held() == 0
    assert claim(waiter, "videos", limit=5) == []
    publish(publisher, message("videos"))
    assert place.held("videos") == 1


def test_a_ring_for_a_queue_that_is_claimed_from_no_more_is_passed_on(place: Place) -> None:
    """It came after the last claim that named the queue."""
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    other = place.waiting()
    publish(publisher, *messages(2))
    assert rung(waiter)
    assert not rung(other, 0)
    assert claim(waiter, "videos", limit=5) == []
    assert rung(other)
    assert len(claim(other, limit=5)) == 2


def waiting_with_some(place: Place, publisher: RedisBroker, *queues: str) -> RedisBroker:
    """Return one that waits for these queues, the last of which it got something from.

    It has no wish that could be taken, and keeps its name when a connection is lost.
    """
    waiter = place.waiting(*queues)
    publish(publisher, message(queues[-1]))
    assert rung(waiter)
    assert len(claim(waiter, *queues, limit=5)) == 1
    assert not waiter._bell.is_idle
    return waiter


def test_a_queue_that_was_left_out_by_a_claim_without_an_answer_is_left_out_by_the_next(
    place: Place,
) -> None:
    """Nobody knows whether the server has done it."""
    publisher = place.open()
    waiter, other = waiting_with_some(place, publisher, "photos", "videos"), place.waiting()
    losing_its_answer(waiter, "videos", runs=False)
    assert claim(waiter, "videos", limit=5) == []
    publish(publisher, *messages(2))
    assert rung(other)
    assert not rung(waiter, 0)


def test_a_queue_that_a_claim_without_an_answer_asked_for_is_left_out_by_the_next(
    place: Place,
) -> None:
    publisher = place.open()
    waiter = waiting_with_some(place, publisher, "videos")
    losing_its_answer(waiter, "photos", "videos", runs=True)
    other = place.waiting()
    assert claim(waiter, "videos", limit=5) == []
    publish(publisher, *messages(2))
    assert rung(other)
    assert not rung(waiter, 0)


def test_a_waiter_that_died_is_handed_nothing_and_forgotten(place: Place) -> None:
    publisher = place.open()
    for dead in (place.waiting(), place.waiting()):
        place.silence(dead)
    alive = place.waiting()
    publish(publisher, message())
    assert place.held() == 1
    assert rung(alive)
    assert len(claim(alive, limit=1)) == 1
    assert place.wishes() == 0
    (whole,) = publish(publisher, message())
    assert claim_one(publisher).message == whole


def test_where_all_who_waited_have_died_the_message_is_ready(place: Place) -> None:
    publisher = place.open()
    place.silence(place.waiting())
    (whole,) = publish(publisher, message())
    assert (place.held(), place.wishes()) == (0, 0)
    lease = claim_one(publisher)
    assert (lease.message, lease.fence, lease.lost) == (whole, 1, 0)


def test_a_producer_that_may_not_ring_stores_all_the_same(
    place: Place, running: RedisServer
) -> None:
    waiter = place.waiting()
    rights = ["+@all", "-@dangerous", "+info"]
    place.client.acl_setuser(
        "mute", enabled=True, passwords=["+x"], keys=["*"], channels=[], commands=rights
    )
    publisher = place.open(running.url().replace("://", "://mute:x@"))
    (whole,) = publish(publisher, message())
    assert place.held() == 0
    assert not rung(waiter, 0)
    lease = claim_one(waiter)
    assert (lease.message, lease.fence) == (whole, 1)
    place.client.acl_deluser("mute")


def test_closing_gives_back_what_was_handed_over(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message())
    waiter.close()
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)
    assert place.wishes() == 0


def test_a_claim_of_nothing_gives_back_what_was_handed_over_and_another_is_rung(
    place: Place,
) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message())
    other = place.waiting()
    assert claim(waiter, limit=0) == []
    assert rung(other)
    lease = claim_one(other)
    assert (lease.fence, lease.lost) == (2, 0)


@pytest.mark.parametrize("limit", [0, 1])
def test_what_is_on_its_way_to_one_without_room_is_waited_for_and_given_back(
    place: Place, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """It was handed over after the waiter listened, and before its claim."""
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    video = message("videos")
    run = waiter._run

    def late(verb: str, *arguments: object) -> object:
        monkeypatch.setattr(waiter, "_run", run)
        publish(publisher, message())
        publish(publisher, video)
        return run(verb, *arguments)

    monkeypatch.setattr(waiter, "_run", late)
    assert ids(claim(waiter, "videos", limit=limit)) == [video.id][:limit]
    lease = claim_one(publisher)
    assert (lease.fence, lease.lost) == (2, 0)
    assert claim(waiter, "videos", limit=0) == []


def test_what_is_on_its_way_to_a_claim_is_all_that_is_handed_to_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, waiter = place.open(), place.waiting()
    new = message()
    run = waiter._run

    def late(verb: str, *arguments: object) -> object:
        monkeypatch.setattr(waiter, "_run", run)
        publish(publisher, new)
        return run(verb, *arguments)

    monkeypatch.setattr(waiter, "_run", late)
    assert ids(claim(waiter, limit=5)) == [new.id]
    assert place.wishes() == 0


def test_to_one_that_gets_something_elsewhere_nothing_is_handed_over(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message("videos"))
    assert len(claim(waiter, "photos", "videos", limit=5)) == 1
    publish(publisher, message())
    assert (place.held(), place.wishes()) == (0, 0)
    assert rung(waiter)


def test_a_ring_says_that_nothing_will_be_handed_over(place: Place) -> None:
    """Or the next claim would wait for that."""
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, *messages(2))
    assert rung(waiter)
    assert waiter.results([]) == []
    assert not waiter._bell.is_idle


def test_what_is_handed_over_beyond_the_room_is_no_reason_to_be_rung(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    publish(publisher, message())
    assert rung(waiter)
    assert len(claim(waiter, "photos", "videos", limit=1)) == 1
    publish(publisher, message("videos"))
    assert not rung(waiter, 0)


def test_what_is_handed_over_of_another_queue_goes_back(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting("photos", "videos")
    (photo,) = publish(publisher, message())
    assert rung(waiter)
    assert claim(waiter, "videos", limit=5) == []
    lease = claim_one(publisher)
    assert (lease.message, lease.fence, lease.lost) == (photo, 2, 0)


def test_what_has_lain_is_renewed_before_its_holder_counts_from_now(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message())
    place.advance(VISIBILITY_MS // 2)
    assert rung(waiter)
    (lease,) = claim(waiter, limit=2)
    place.advance(VISIBILITY_MS - 1)
    assert claim(publisher) == []
    assert settle(waiter, lease, Ack()) == APPLIED


def test_what_has_lain_until_another_holds_it_is_not_taken(place: Place) -> None:
    """A worker that was stopped: its lease ran out, as that of any that stops."""
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message())
    place.advance(VISIBILITY_MS)
    other = claim_one(publisher)
    assert other.lost == 1
    assert rung(waiter)
    assert claim(waiter, limit=2) == []
    assert settle(publisher, other, Ack()) == APPLIED


def test_what_a_look_at_results_heard_is_there_for_the_next_claim(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    (whole,) = publish(publisher, message())
    assert rung(waiter)
    assert waiter.results([whole.id]) == [None]
    assert not rung(waiter, 0)
    assert claim_one(waiter).message == whole


def test_a_wish_that_was_made_before_the_bell_was_lost_is_as_good_afterwards(
    place: Place,
) -> None:
    """What is handed over when it hangs again reaches it, once."""
    publisher, waiter = place.open(), place.waiting()
    place.silence(waiter)
    (first,) = publish(publisher, message())
    assert place.held() == 0
    assert claim_one(waiter).message == first
    assert claim(waiter, limit=5) == []
    (second,) = publish(publisher, message())
    assert place.held() == 2
    assert rung(waiter)
    assert claim_one(waiter).message == second


def test_what_is_told_on_a_bell_that_is_being_lost_is_taken(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    (whole,) = publish(publisher, message())
    assert rung(waiter)
    place.client.client_kill_filter(_type="pubsub")
    assert claim_one(waiter).message == whole


def test_what_was_told_before_another_call_lost_the_connections_is_taken(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    (whole,) = publish(publisher, message())
    assert rung(waiter)
    place.client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(PublishUnknown):
        waiter.publish([message("videos")])
    assert claim_one(waiter).message == whole


def test_an_idle_waiter_that_asks_again_writes_nothing(place: Place) -> None:
    """It asks once a second, and the server's log would grow for ever."""
    waiter = place.waiting("photos", "videos")
    before = place.client.info("persistence")["rdb_changes_since_last_save"]
    for _ in range(3):
        assert claim(waiter, "photos", "videos", limit=5) == []
    assert place.client.info("persistence")["rdb_changes_since_last_save"] == before


def test_b38_what_was_told_to_a_bell_that_died_without_a_sign_is_granted_uncounted(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """And the bell is hung up anew, so that it is the only one."""
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    place.deafen(waiter, proxy)
    (first,) = publish(publisher, message())
    assert place.held() == 1
    missed = waiter.claim(["photos"], 5)
    assert (missed.leases, missed.next_in) == ([], 0)
    lease = claim_one(waiter)
    assert (lease.message, lease.fence, lease.lost) == (first, 2, 0)
    assert claim(waiter, limit=5) == []
    (second,) = publish(publisher, message())
    assert rung(waiter)
    lease = claim_one(waiter)
    assert (lease.message, lease.fence) == (second, 1)


def test_what_was_told_and_heard_is_not_given_back_when_the_bell_dies(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    publish(publisher, message())
    assert rung(waiter)
    held = claim_one(waiter)
    place.deafen(waiter, proxy)
    publish(publisher, message("videos"))
    assert [len(claim(waiter, "photos", "videos", limit=5)) for _ in range(3)] == [1, 0, 0]
    assert claim(publisher) == []
    assert settle(waiter, held, Ack()) == APPLIED


def test_what_was_not_heard_of_a_queue_that_is_claimed_from_no_more_goes_to_another(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    waiter = place.waiting("photos", "videos", url=running.url(proxy.port))
    publisher, other = place.open(), place.waiting()
    place.deafen(waiter, proxy)
    publish(publisher, message())
    assert claim(other, limit=5) == []
    assert [claim(waiter, "videos", limit=5) for _ in range(2)] == [[], []]
    assert rung(other)
    lease = claim_one(other)
    assert (lease.fence, lease.lost) == (2, 0)


def test_a_name_of_before_waits_for_no_queue_that_is_claimed_from_no_more(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """The server does not know that nobody hears it."""
    waiter = place.waiting("photos", "videos", url=running.url(proxy.port))
    publisher, other = place.open(), place.waiting()
    place.deafen(waiter, proxy)
    publish(publisher, message("videos"))
    assert claim(waiter, "photos", "videos", limit=5) == []
    assert waiter._bell.lost
    assert len(claim(waiter, "videos", limit=5)) == 1
    publish(publisher, *messages(2))
    assert rung(other)


def test_a_wish_that_a_dead_bell_did_not_tell_of_is_asked_for_again(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """Another took what was rung for."""
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    place.deafen(waiter, proxy)
    publish(publisher, *messages(2))
    assert len(claim(publisher, limit=2)) == 2
    assert [claim(waiter, limit=5) for _ in range(2)] == [[], []]
    assert place.wishes() == 1


def test_a_bell_is_asked_after_a_silence_and_hung_up_anew_if_it_does_not_answer(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """Before a job is told to it."""
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    waiter.idle()
    assert not rung(waiter, 0)
    for _ in range(2):
        place.advance(11_000)
        waiter.idle()
        assert rung(waiter)
        assert claim(waiter, limit=5) == []
        place.advance(3_000)
        waiter.idle()
    hung_up = waiter._bell._stream
    place.deafen(waiter, proxy)
    place.advance(11_000)
    waiter.idle()
    waiter.idle()
    assert waiter._bell._stream is hung_up
    place.advance(3_000)
    waiter.idle()
    assert claim(waiter, limit=5) == []
    publish(publisher, message())
    assert rung(waiter)
    assert claim_one(waiter).fence == 1


def test_a_bell_that_cannot_be_asked_is_hung_up_anew(place: Place) -> None:
    publisher, waiter = place.open(), place.waiting()
    waiter._bell._link.socket().shutdown(socket.SHUT_WR)
    place.advance(11_000)
    waiter.idle()
    assert claim(waiter, limit=5) == []
    publish(publisher, message())
    assert rung(waiter)
    assert claim_one(waiter).fence == 1


def test_a_bell_of_a_user_that_may_not_ask_is_heard_all_the_same(
    place: Place, running: RedisServer
) -> None:
    place.client.acl_setuser(
        "shy",
        enabled=True,
        passwords=["+x"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-ping"],
    )
    publisher = place.open()
    waiter = place.waiting(url=running.url().replace("://", "://shy:x@"))
    place.advance(11_000)
    waiter.idle()
    assert rung(waiter)
    assert claim(waiter, limit=5) == []
    publish(publisher, message())
    assert rung(waiter)
    assert claim_one(waiter).fence == 1
    place.client.acl_deluser("shy")


def test_a_note_of_what_was_told_is_gone_with_the_next_claim_or_with_the_lease(
    place: Place,
) -> None:
    publisher, waiter = place.open(), place.waiting()
    publish(publisher, message(visibility_timeout_ms=20_000))
    (kept_ms,) = place.notes()
    assert 0 < kept_ms <= 20_000
    assert len(claim(waiter, limit=5)) == 1
    assert claim(waiter, limit=5) == []
    assert place.notes() == []


def losing_its_answer(waiter: RedisBroker, *queues: str, runs: bool) -> tuple[Any, ...]:
    """Make a claim of which no answer comes, whether it `runs` or not; return what was asked."""
    asked: list[Any] = []
    run = waiter._link.run

    def lose(*script: Any) -> NoReturn:
        asked.extend(script)
        if runs:
            run(*script)
        raise NoAnswer("lost")

    waiter._link.run = lose
    with pytest.raises(BrokerUnavailable):
        waiter.claim(queues, 5)
    waiter._link.run = run
    return tuple(asked)


def test_what_was_heard_is_not_given_back_by_a_claim_that_comes_late(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """It left when a bell was dead, and was stuck on its way for as long as that."""
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    place.deafen(waiter, proxy)
    publish(publisher, message())
    assert waiter.claim(["photos"], 5).leases == []
    late = losing_its_answer(waiter, "photos", runs=False)
    assert settle(waiter, claim_one(waiter), Ack()) == APPLIED
    assert claim(waiter, limit=5) == []
    publish(publisher, message())
    assert rung(waiter)
    running_now = claim_one(waiter)
    assert publisher._link.run(*late)[3] == []
    assert settle(waiter, running_now, Ack()) == APPLIED


def test_what_is_told_to_the_new_bell_is_not_given_back_with_what_the_old_one_missed(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    """The claim that asked for that was answered by nothing, and is made again."""
    waiter = place.waiting("photos", "videos", url=running.url(proxy.port))
    publisher = place.open()
    place.deafen(waiter, proxy)
    publish(publisher, message())
    assert claim(waiter, "videos", limit=5) == []
    losing_its_answer(waiter, "videos", runs=True)
    waiter._bell.hear()
    (new,) = publish(publisher, message("videos"))
    leases = [lease for _ in range(3) for lease in claim(waiter, "videos", limit=5)]
    assert [(lease.message, lease.fence) for lease in leases] == [(new, 1)]
    assert settle(waiter, leases[0], Ack()) == APPLIED


def test_closing_gives_back_what_was_told_to_a_bell_that_died_without_a_sign(
    place: Place, running: RedisServer, proxy: Proxy
) -> None:
    publisher, waiter = place.open(), place.waiting(url=running.url(proxy.port))
    place.deafen(waiter, proxy)
    publish(publisher, message())
    waiter.close()
    assert claim_one(publisher).lost == 0
