"""How a job's idempotency key is made, what of it is refused, and what a message then carries."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from dibs import App
from dibs.brokers.contract import MAX_NAME_BYTES
from dibs.brokers.memory import MemoryBroker, open_memory
from dibs.clock import SystemClock
from dibs.errors import ArgumentError, OptionError
from dibs.idempotency import HEADER, key_form, record_id
from dibs.message import Message
from dibs.testing.making import claim_all


class Colour(Enum):
    RED = "red"


@dataclass
class Event:
    id: int
    kind: str | None = None
    tags: tuple[str, ...] = ()


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    with closing(App(f"memory://{request.node.name}")) as app:
        yield app


def stored(app: App) -> list[Message]:
    broker = open_memory(app.url.removeprefix("memory://"), clock=SystemClock(), worker_id=b"look")
    with closing(broker):
        return [lease.message for lease in claim_all(broker, "default")]


def refusal(call: Callable[[], object], error: type[Exception] = OptionError) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def read(text: object) -> Callable[[], object]:
    return lambda: key_form("charge", text, ("order", "cents"))


@pytest.mark.parametrize(
    ("kind", "value", "key"),
    [
        (int, 17, "17"),
        (int, -1, "-1"),
        (str, "Ünd {so} 𝄞", "Ünd {so} 𝄞"),
        (bool, True, "true"),
        (float, 1.0, "1"),
        (float, 1, "1"),
        (float, 0.1, "0.1"),
        (Decimal, Decimal("1.50"), "1.50"),
        (UUID, UUID(int=17), "00000000-0000-0000-0000-000000000011"),
        (date, date(2030, 1, 2), "2030-01-02"),
        (datetime, datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00Z"),
        (Colour, Colour.RED, "red"),
        (Path, Path("a/b.jpg"), "a/b.jpg"),
        (Any, 5, "5"),
    ],
)
def test_a_key_is_made_of_the_text_that_is_sent(app: App, kind: Any, value: Any, key: str) -> None:
    def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = kind
    app.task(idempotency_key="charge-{order}")(charge).enqueue(value)
    (message,) = stored(app)
    assert message.headers == {HEADER: f"charge-{key}"}
    assert message.unique_key == f"charge charge-{key}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{order}", "7"),
        ("{order}:{cents}", "7:5"),
        ("{{{order}}} of {cents}.", "{7} of 5."),
        ("{event.id}/{event.kind}", "3/paid"),
        ("{order}-{order}", "7-7"),
    ],
)
def test_a_key_is_what_is_written_with_the_parameters_in_it(app: App, text: str, key: str) -> None:
    @app.task(idempotency_key=text)
    def charge(order: int, /, event: Event, *, cents: int = 5) -> None: ...

    charge.enqueue(7, Event(3, "paid"))
    charge.enqueue(7, event=Event(3, "paid"), cents=5)
    (message,) = stored(app)
    assert message.headers[HEADER] == key


def test_every_way_to_enqueue_sets_the_key(app: App) -> None:
    @app.task(idempotency_key="{n}")
    def charge(n: int) -> None: ...

    @app.task
    def plain(n: int) -> None: ...

    charge.enqueue(0)
    asyncio.run(_awaited(charge.aenqueue(1)))
    charge.options(priority=5, max_attempts=2).enqueue(2)
    calls = [plain.bind(3), charge.bind(4), charge.bind(5), plain.bind(6), charge.bind(0)]
    assert app.enqueue_many(calls) == 4, "the last is there already"
    later = charge.options(delay=60).enqueue(0)
    assert later.duplicate
    found = {m.args: (m.unique_key, m.headers.get(HEADER)) for m in stored(app)}
    keyed = {b'{"n":%d}' % n: (f"charge {n}", f"{n}") for n in (0, 1, 2, 4, 5)}
    assert found == {**keyed, b'{"n":3}': (None, None), b'{"n":6}': (None, None)}


async def _awaited(call: Any) -> None:
    await call


def test_a_call_that_is_delayed_keeps_its_time_and_its_key(app: App) -> None:
    @app.task(idempotency_key="{n}")
    def charge(n: int) -> None: ...

    at = datetime.now(UTC) + timedelta(hours=1)
    charge.options(run_at=at).enqueue(1)
    app.enqueue_many([charge.options(delay=60).bind(2)])
    broker = open_memory(app.url.removeprefix("memory://"), clock=SystemClock(), worker_id=b"look")
    assert claim_all(broker, "default") == []
    assert broker.inspector().queues()[0].scheduled == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("charge-{oder}", "`charge` has no parameter `oder`; did you mean `order`?"),
        ("charge", "it names no parameter, so that all jobs would have the same key"),
        ("{{order}}", "it names no parameter"),
        ("", "it names no parameter"),
        ("{order}{cents}", "put text between two names"),
        ("{order!r}", "a name in it stands alone"),
        ("{order:05d}", "a name in it stands alone"),
        ("{order[0]}", "{order[0]} is no parameter's name"),
        ("{}", "{} is no parameter's name"),
        ("{0}", "{0} is no parameter's name"),
        ("{order.}", "{order.} is no parameter's name"),
        ("{order", "expected '}' before end of string"),
        ("order}", "Single '}' encountered"),
        ("\ud800{order}", "surrogates not allowed"),
        (5, "it is text with the task's parameters in it"),
        (lambda order: order, "it is text with the task's parameters in it"),
    ],
)
def test_what_is_no_key_is_refused_at_the_definition(text: object, why: str) -> None:
    said = refusal(read(text))
    assert said.startswith("the `idempotency_key` of `charge` is ")
    assert why in said
    assert said.endswith("the form is 'charge-{order}'")


def test_a_wrong_name_is_an_error_where_the_task_is_defined(app: App) -> None:
    def charge(order: int) -> None: ...

    decorate = app.task(name="pay", idempotency_key="charge-{oder}")
    assert "`pay` has no parameter `oder`" in refusal(lambda: decorate(charge))
    assert not app.tasks


@pytest.mark.parametrize("keep", [0, -1, 0.5, "long"])
def test_a_record_is_kept_for_a_second_at_the_least(app: App, keep: Any) -> None:
    def charge(order: int) -> None: ...

    decorate = app.task(idempotency_key="{order}", keep_key=keep)
    assert refusal(lambda: decorate(charge)).startswith(f"`keep_key` is {keep!r}")


def test_a_time_to_keep_records_needs_a_key_of_which_they_are(app: App) -> None:
    def charge(order: int) -> None: ...

    text = refusal(lambda: app.task(keep_key=60)(charge))
    assert text.startswith("`keep_key` is 60, and there is no `idempotency_key`")


def test_a_worker_is_told_for_how_long_a_record_is_kept(app: App) -> None:
    def f(n: int) -> None: ...

    assert app.task(name="a", idempotency_key="{n}")(f).info.keep_key_ms == 30 * 86_400_000
    kept = app.task(name="b", idempotency_key="{n}", keep_key=timedelta(days=1))(f)
    assert kept.info.keep_key_ms == 86_400_000
    assert app.task(f).info.keep_key_ms == 0


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Event(1), "`{event.kind}` of its idempotency key is null, or is not there"),
        (Event(1, ""), "its idempotency key is '': with the task's name it has 1 to 512 bytes"),
        (Event(1, "x" * 600), "'xxxx"),
    ],
)
def test_a_key_that_would_be_none_is_refused_with_the_call(
    app: App, event: Event, why: str
) -> None:
    @app.task(idempotency_key="{event.kind}")
    def charge(event: Event) -> None: ...

    for call in (charge.enqueue, charge.bind):
        said = refusal(lambda call=call: call(event), ArgumentError)  # type: ignore[misc]
        assert said.startswith("`charge`: ")
        assert why in said
    assert stored(app) == []


@pytest.mark.parametrize("path", ["event", "event.tags", "event.kind.more", "event.nothing"])
def test_a_key_is_not_made_of_what_is_no_text(app: App, path: str) -> None:
    @app.task(idempotency_key=f"{{{path}}}")
    def charge(event: Event) -> None: ...

    said = refusal(lambda: charge.enqueue(Event(1, "paid", ("a",))), ArgumentError)
    assert f"`{{{path}}}` of its idempotency key is" in said


def test_a_default_without_a_form_of_text_is_refused_with_the_call(app: App) -> None:
    @app.task(idempotency_key="{n}")
    def charge(n: int = object()) -> None: ...  # type: ignore[assignment]

    assert "parameter `n` cannot be sent as JSON" in refusal(charge.enqueue, ArgumentError)


def test_the_longest_key_is_the_longest_unique_key(app: App) -> None:
    @app.task(idempotency_key="{n}")
    def charge(n: str) -> None: ...

    room = MAX_NAME_BYTES - len("charge ")
    charge.enqueue("é" * (room // 2) + "x" * (room % 2))
    assert "512 bytes" in refusal(lambda: charge.enqueue("x" * (room + 1)), ArgumentError)
    (message,) = stored(app)
    assert len((message.unique_key or "").encode()) == MAX_NAME_BYTES


def test_the_unique_key_of_a_keyed_task_is_not_to_be_chosen(app: App) -> None:
    @app.task(idempotency_key="{n}")
    def charge(n: int) -> None: ...

    assert "leave `unique_key` out" in refusal(lambda: charge.options(unique_key="mine"))


def test_a_record_is_of_one_task_and_one_key() -> None:
    def of(task: str, **headers: str) -> bytes | None:
        return record_id(Message(bytes(16), "default", task, b"{}", headers=headers))

    assert of("a") is None
    assert of("a", other="b") is None
    ids = {record_id(keyed(task, key)) for task, key in (("a", "b c"), ("a b", "c"), ("a", "b"))}
    assert len(ids) == 3
    assert {len(id or b"") for id in ids} == {16}
    assert record_id(keyed("a", "b")) == record_id(keyed("a", "b"))


def keyed(task: str, key: str) -> Message:
    return Message(bytes(16), "default", task, b"{}", headers={HEADER: key})


def test_a_broker_that_keeps_no_results_refuses_the_job(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = replace(MemoryBroker.capabilities, results=False)
    monkeypatch.setattr("dibs.brokers.memory.store.CAPABILITIES", fewer)

    @app.task(idempotency_key="{n}")
    def charge(n: int) -> None: ...

    assert "record of an idempotency key" in refusal(lambda: charge.enqueue(1))
    assert "record of an idempotency key" in refusal(lambda: app.enqueue_many([charge.bind(1)]))


@pytest.mark.parametrize("lacks", ["results", "unique_keys"])
def test_a_worker_does_not_start_where_no_record_can_be_kept(
    app: App, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    fewer = replace(MemoryBroker.capabilities, **{lacks: False})
    monkeypatch.setattr(MemoryBroker, "capabilities", fewer)

    @app.task
    def plain(n: int) -> None: ...

    app.worker().drain()

    @app.task(idempotency_key="{n}")
    def charge(n: int) -> None: ...

    said = refusal(app.worker().drain)
    assert "`charge` (" in said
    assert "cannot keep the record" in said
