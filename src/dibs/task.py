"""Registered functions.

Owns: which functions can be tasks, and a task's own defaults of delivery.
Must never: resolve an annotation or inspect a signature at import; that waits for the first use.
Called by: `App.task`, user code, runners.
"""

from collections.abc import Callable, Coroutine
from types import CodeType, FunctionType
from typing import Any, Literal, NamedTuple, cast

from dibs.backoff import exponential
from dibs.brokers.contract import MAX_NAME_BYTES
from dibs.codec import Codec
from dibs.delivery import Delivery, P
from dibs.errors import OptionError, TaskDefinitionError
from dibs.idempotency import KEPT_SECONDS, KeyForm, key_form
from dibs.job import Job, Origin, R_co
from dibs.message import Backoff, Kind, TaskInfo
from dibs.options import Options, Seconds, milliseconds
from dibs.policy import Retries
from dibs.producer.ids import from_text
from dibs.producer.producer import Producer
from dibs.signature import returns

_POSITIONALS, _KEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x4, 0x8, 0x20, 0x80, 0x200
"""The flags of a code object, as in `inspect`, which would cost every start of a program."""


class Task(Delivery[P, R_co]):
    """A function that can be called here and enqueued for elsewhere; made by `App.task`.

    Attributes:
        function: the function itself.
        info: what a worker must know of it.
        codec: how its arguments and results are written.
        retries: which of its exceptions are tried again.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        info: TaskInfo,
        retries: Retries,
        options: Options,
        producer: Producer,
        *,
        key_form: KeyForm | None = None,
    ) -> None:
        self.function = function
        self.info = info
        self.retries = retries
        self.codec = Codec(info.name, function)
        super().__init__(Origin(info, self.codec, producer, key_form), options)
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        """The name by which workers find it."""
        return self.info.name

    def job(self, id: str) -> Job[R_co]:
        """Return the job of this task that has an id, as `Job.id` said it: in another process, say.

        Nothing is looked up; `result`, `wait` and `status` of the job do.

        Raises:
            JobIdError: it is no id.
        """
        return Job(from_text(id), self._origin)

    def resolve(self) -> None:
        """Resolve the annotations, as every runner does before it says that it is ready.

        Raises:
            TaskDefinitionError: one cannot be resolved, or its type has no JSON form.
        """
        self.codec.resolve(result=self.info.keep_result_ms > 0)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)


class FunctionTask(Task[P, R_co]):
    """A task made of a `def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function, here and now."""
        result: R_co = self.function(*args, **kwargs)
        return result


class AsyncTask(Task[P, R_co]):
    """A task made of an `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the function's coroutine, to be awaited here."""
        coroutine: Coroutine[Any, Any, R_co] = self.function(*args, **kwargs)
        return coroutine


AnyTask = Task[..., Any]


ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


class Definition(NamedTuple):
    """What a task is defined with besides its options of delivery; see `App.task`."""

    name: str | None
    heartbeat: bool
    runs_in: Literal["process"] | None
    keep_result: Seconds
    backoff: Backoff | None
    retry_on: ExceptionTypes | None
    give_up_on: ExceptionTypes
    idempotency_key: str | None
    keep_key: Seconds


def define(
    function: Callable[..., Any], given: Definition, options: Options, producer: Producer
) -> AnyTask:
    """Make a task of `function`.

    Raises:
        TaskDefinitionError: it cannot be one, or not under that name; the text says why.
        OptionError: an option of `given` is not what it can be.
    """
    code = _code(function)
    name = function.__name__ if given.name is None else given.name
    where = f"{code.co_filename}:{code.co_firstlineno}"
    _check_name(name, where)
    _check_parameters(function, code, f"`{name}` ({where})")
    if given.runs_in not in (None, "process"):
        raise OptionError(f"`runs_in` is {given.runs_in!r}: it is 'process', or left out")
    if not isinstance(given.heartbeat, bool):
        raise OptionError(f"`heartbeat` is {given.heartbeat!r}: it is True or False")
    is_async = bool(code.co_flags & _COROUTINE)
    if is_async and given.runs_in:
        raise TaskDefinitionError(
            f"`{name}` ({where}) is an `async def`, and `runs_in='process'` is for code that blocks"
            " or crashes: write it as a `def`, or leave `runs_in` out"
        )
    kind: Kind = "async" if is_async else given.runs_in or "thread"
    keep_ms = milliseconds("keep_result", given.keep_result)
    kept_ms = keep_ms if returns(function) == "value" else 0
    backoff = _backoff(given.backoff)
    key_form, key_ms = _key_form(name, function, given)
    info = TaskInfo(
        name,
        options.queue,
        kind,
        given.heartbeat,
        kept_ms,
        where,
        backoff,
        key_ms,
        options.priority,
        options.visibility_timeout_ms,
        options.timeout_ms,
        options.max_lost,
    )
    made = AsyncTask if is_async else FunctionTask
    return made(function, info, _retries(given), options, producer, key_form=key_form)


def _code(function: object) -> CodeType:
    if isinstance(function, FunctionType):
        return function.__code__
    if isinstance(function, staticmethod | classmethod):
        raise TaskDefinitionError(
            f"{function!r} cannot be a task: put `@staticmethod` above `@app.task`"
        )
    raise TaskDefinitionError(
        f"{function!r} is not a function: a task is made of a `def` or an `async def`;"
        " wrap the call of anything else in one"
    )


def _check_name(name: object, where: str) -> None:
    if name == "<lambda>":
        raise TaskDefinitionError(
            f"a lambda ({where}) has no name that a worker could find it by: use `def`, or `name=`"
        )
    if not isinstance(name, str) or not name or not name.isprintable():
        raise TaskDefinitionError(f"the task name {name!r} ({where}) is not printable text")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise TaskDefinitionError(
            f"the task name {name[:50]!r}... ({where}) has more than {MAX_NAME_BYTES} bytes"
        )


def _check_parameters(function: Callable[..., Any], code: CodeType, who: str) -> None:
    if code.co_flags & (_GENERATOR | _ASYNC_GENERATOR):
        raise TaskDefinitionError(
            f"{who} is a generator: calling it would run nothing. Collect what it yields in a"
            " function that returns, or enqueue a job for each"
        )
    inner = _innermost(function).__code__
    if inner.co_flags & _COROUTINE and not code.co_flags & _COROUTINE:
        raise TaskDefinitionError(
            f"{who} is a `def` that wraps an `async def`: nobody would await it. Write the"
            " decorator's wrapper as an `async def`"
        )
    open_ended = inner.co_flags & _POSITIONALS and "*", inner.co_flags & _KEYWORDS and "**"
    stars = [star for star in open_ended if star]
    first = inner.co_argcount + inner.co_kwonlyargcount
    for star, parameter in zip(stars, inner.co_varnames[first:], strict=False):
        raise TaskDefinitionError(
            f"{who} has `{star}{parameter}`: a task names each of its parameters, so that a call"
            " can be checked. (The wrapper of a decorator needs `functools.wraps`.)"
        )
    owner = function.__qualname__.rpartition(".")[0]
    if owner and not owner.endswith("<locals>") and code.co_varnames[:1] in (("self",), ("cls",)):
        raise TaskDefinitionError(
            f"{who} is a method of `{owner}`, and an object cannot be sent: write a function, and"
            " pass it what it needs to make or find the object"
        )


def _key_form(
    name: str, function: Callable[..., Any], given: Definition
) -> tuple[KeyForm | None, int]:
    """Return how the keys of a task are made, and for how long their records are kept."""
    keep_ms = milliseconds("keep_key", given.keep_key, 1_000)
    if given.idempotency_key is None:
        if given.keep_key != KEPT_SECONDS:
            raise OptionError(
                f"`keep_key` is {given.keep_key!r}, and there is no `idempotency_key` whose record"
                " would be kept: give that too"
            )
        return None, 0
    code = _innermost(function).__code__
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return key_form(name, given.idempotency_key, parameters), keep_ms


def _backoff(given: object) -> Backoff:
    if given is None:
        return exponential()
    if not isinstance(given, Backoff):
        raise OptionError(
            f"`backoff` is {given!r}: it is made by `dibs.backoff`, as in"
            " `exponential(longest=600)`, `fixed(5)` or `steps(1, 5, 60)`"
        )
    return given


def _retries(given: Definition) -> Retries:
    give_up_on = _exception_types("give_up_on", given.give_up_on)
    if given.retry_on is None:
        return Retries(None, give_up_on)
    retry_on = _exception_types("retry_on", given.retry_on)
    for both in set(retry_on) & set(give_up_on):
        raise OptionError(
            f"`{both.__name__}` is in `retry_on` and in `give_up_on`: leave it in one of them"
        )
    return Retries(retry_on, give_up_on)


def _exception_types(name: str, given: object) -> tuple[type[BaseException], ...]:
    types: tuple[object, ...] = given if isinstance(given, tuple) else (given,)
    return tuple(_exception_type(name, one) for one in types)


def _exception_type(name: str, given: object) -> type[BaseException]:
    if isinstance(given, type) and issubclass(given, BaseException):
        return given
    raise OptionError(f"`{name}` has {given!r}: it is an exception type, or a tuple of them")


def _innermost(function: Any) -> FunctionType:
    while isinstance(wrapped := getattr(function, "__wrapped__", None), FunctionType):
        function = wrapped
    return cast("FunctionType", function)
