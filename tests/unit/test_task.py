"""Which functions can be tasks, and what a task is."""

import asyncio
import functools
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest

from dibs import App, Task
from dibs.backoff import exponential, fixed
from dibs.delivery import Delivery
from dibs.errors import OptionError, TaskDefinitionError
from dibs.message import TaskInfo
from dibs.policy import Retries


@pytest.fixture
def app() -> App:
    return App("memory://tasks")


def refusal(app: App, function: Callable[..., Any], **options: Any) -> str:
    with pytest.raises((TaskDefinitionError, OptionError)) as caught:
        app.task(**options)(function)
    return str(caught.value)


def test_a_task_is_called_like_the_function_that_it_is(app: App) -> None:
    @app.task
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    assert isinstance(double, Task)
    assert double(4) == 8
    assert (double.name, double.__name__, double.__doc__) == (
        "double", "double", "Twice the number.",
    )  # fmt: skip
    assert double.function(4) == 8


def test_none_is_no_value_of_an_option_that_has_a_default(app: App) -> None:
    """Whoever writes `timeout=None` means that there is no limit, and would have had 900 s."""
    options = [p for p in signature(App.task).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in (p for p in options if p.default not in (None, ())):
        text = refusal(app, lambda: None, **{"name": "f", option.name: None})
        assert text.startswith(f"`{option.name}` is None: ")
    text = refusal(app, lambda: None, name="f", timeout=None)
    assert text == "`timeout` is None: every run has a limit; give seconds"


def test_none_leaves_an_option_of_a_call_as_it_is(app: App) -> None:
    send = app.task(name="send", timeout=5)(lambda: None)
    names = [p.name for p in signature(Delivery.options).parameters.values() if p.default is None]
    assert repr(send.options(**dict.fromkeys(names))) == "<Delivery send timeout_ms=5000>"


def test_a_coroutine_task_returns_its_coroutine(app: App) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    assert asyncio.run(double(4)) == 8


def test_what_a_worker_must_know_of_a_task(app: App) -> None:
    @app.task
    async def fetch(url: str) -> str: ...  # type: ignore[empty-body]

    @app.task(queue="cpu", runs_in="process", heartbeat=False, keep_result=1.5)
    def crunch(n: int) -> int: ...  # type: ignore[empty-body]

    @app.task(name="note")
    def write(text: str) -> None: ...

    line = fetch.function.__code__.co_firstlineno
    assert fetch.info == TaskInfo(
        "fetch", "default", "async", True, 3_600_000, f"{__file__}:{line}", exponential()
    )
    assert (crunch.info.queue, crunch.info.kind) == ("cpu", "process")
    assert (crunch.info.heartbeat, crunch.info.keep_result_ms) == (False, 1_500)
    assert (write.info.name, write.info.kind, write.info.keep_result_ms) == ("note", "thread", 0)


@pytest.mark.parametrize("annotation", [None, "None", type(None)])
def test_no_result_is_kept_of_what_returns_none(app: App, annotation: object) -> None:
    def f(): ...

    assert app.task(name="unannotated")(f).info.keep_result_ms == 0
    f.__annotations__["return"] = annotation
    assert app.task(f).info.keep_result_ms == 0


def test_a_second_task_of_a_name_is_refused_naming_both_places(app: App) -> None:
    def f(): ...

    def g(): ...

    app.task(f)
    text = refusal(app, g, name="f")
    assert f"{__file__}:{f.__code__.co_firstlineno}" in text
    assert f"{__file__}:{g.__code__.co_firstlineno}" in text
    assert list(app.tasks) == ["f"]


def test_open_ended_parameters_are_refused_by_name(app: App) -> None:
    def many(a, *rest): ...

    def named(a, *, b=1, **extra): ...

    def both(*args, **kwargs): ...

    assert "`many`" in refusal(app, many)
    assert "has `*rest`" in refusal(app, many)
    assert "has `**extra`" in refusal(app, named)
    assert "has `*args`" in refusal(app, both)
    assert "functools.wraps" in refusal(app, both)


def test_a_decorated_function_keeps_its_own_parameters(app: App) -> None:
    def f(number: int) -> int:
        return number

    @functools.wraps(f)
    def wrapper(*args: int, **kwargs: int) -> int:
        return f(*args, **kwargs)

    task = app.task(wrapper)
    assert task.codec.encode((1,), {}) == b'{"number":1}'


def test_a_plain_wrapper_of_a_coroutine_function_is_refused(app: App) -> None:
    async def f(): ...

    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)

    assert "nobody would await it" in refusal(app, wrapper)


def test_what_could_not_work_is_refused_with_a_way_out(app: App) -> None:
    def numbers():
        yield 1

    async def events():
        yield 1

    class Shop:
        def sell(self, what: str) -> None: ...

        @staticmethod
        def close() -> None: ...

        @classmethod
        def count(cls) -> None: ...

    assert "is a generator" in refusal(app, numbers)
    assert "is a generator" in refusal(app, events)
    assert "is a method of" in refusal(app, Shop.sell)
    assert "is a method of" in refusal(app, Shop.__dict__["count"].__func__)
    assert "put `@staticmethod` above `@app.task`" in refusal(app, Shop.__dict__["close"])
    assert "is not a function" in refusal(app, print)
    assert "is not a function" in refusal(app, Shop)
    assert "is not a function" in refusal(app, functools.partial(print, 1))
    assert "a lambda" in refusal(app, lambda: 1)
    app.task(Shop.close)
    app.task(name="one")(lambda: 1)
    assert list(app.tasks) == ["close", "one"]


@pytest.mark.parametrize("name", ["", "a\nb", "\0", "x" * 513, "\ud800", "a\u202eb", 5])
def test_a_name_that_people_could_not_read_is_refused(app: App, name: Any) -> None:
    assert "the task name" in refusal(app, lambda: 1, name=name)


def test_options_are_checked_where_the_task_is_defined(app: App) -> None:
    def f(x: int) -> None: ...

    async def g() -> None: ...

    assert refusal(app, f, queue="a b").startswith("`queue` is 'a b'")
    assert refusal(app, f, max_crashes=0).startswith("`max_crashes` is 0")
    assert refusal(app, f, keep_result=-1).startswith("`keep_result` is -1")
    assert refusal(app, f, runs_in="thread").startswith("`runs_in` is 'thread'")
    assert refusal(app, f, heartbeat=None).startswith("`heartbeat` is None")
    assert "is an `async def`" in refusal(app, g, runs_in="process")
    with pytest.raises(TypeError, match="delay"):
        app.task(delay=5)  # type: ignore[call-overload]


def test_a_task_keeps_how_its_failures_are_retried(app: App) -> None:
    @app.task
    def plain() -> None: ...

    @app.task(backoff=fixed(5), retry_on=OSError, give_up_on=(FileNotFoundError, KeyError))
    def picky() -> None: ...

    assert (plain.info.backoff, plain.retries) == (exponential(), Retries(None, ()))
    assert picky.info.backoff == fixed(5)
    assert picky.retries == Retries((OSError,), (FileNotFoundError, KeyError))


@pytest.mark.parametrize("name", ["retry_on", "give_up_on"])
@pytest.mark.parametrize("wrong", [5, "OSError", [OSError], (OSError, 5), int, OSError()])
def test_what_is_no_exception_type_is_refused_where_the_task_is_defined(
    app: App, name: str, wrong: object
) -> None:
    def f() -> None: ...

    text = refusal(app, f, **{name: wrong})
    assert text.startswith(f"`{name}` has ")
    assert "it is an exception type, or a tuple of them" in text


def test_a_type_cannot_be_both_retried_and_given_up_on(app: App) -> None:
    def f() -> None: ...

    text = refusal(app, f, retry_on=(KeyError, OSError), give_up_on=OSError)
    assert text == "`OSError` is in `retry_on` and in `give_up_on`: leave it in one of them"


@pytest.mark.parametrize("wrong", [5, [1, 5], "exponential", exponential])
def test_a_backoff_is_made_by_the_functions_for_it(app: App, wrong: object) -> None:
    def f() -> None: ...

    assert "it is made by `dibs.backoff`" in refusal(app, f, backoff=wrong)


def test_tasks_show_what_they_are(app: App) -> None:
    @app.task(queue="mail")
    def send(to: str) -> None: ...

    assert repr(send) == "<FunctionTask send queue='mail'>"
    assert repr(send.options(delay=2)) == "<Delivery send queue='mail' delay_ms=2000>"
