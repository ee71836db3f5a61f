"""A task's parameters, as one msgspec struct.

Owns: the reading of a function's signature and annotations, which types can be parameters, and how
a call that does not fit is described.
Must never: look at a value; that is the codec's.
Called by: `codec`, at the first use of a task, when every name in an annotation exists.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct

from dibs.errors import TaskDefinitionError
from dibs.spelling import did_you_mean

CALL_OPTIONS = frozenset(
    (
        "delay",
        "run_at",
        "priority",
        "queue",
        "unique_key",
        "max_attempts",
        "timeout",
        "visibility_timeout",
        "connection",
    )
)
"""What `options` of a task takes, which is above this file: a test holds them to be the same."""


class Signature(Struct, frozen=True):
    """The parameters of the task `task`, resolved.

    `arguments` is a struct with a field per parameter, in order; one with a default may be UNSET,
    so that the function's own default applies where and when it runs. The first
    `positional` fields may be passed by position, the names in `positional_only` must be.
    `defaults` has the values that the function itself would take.
    """

    task: str
    arguments: type[Struct]
    decode: Callable[[bytes], Struct]
    names: tuple[str, ...]
    positional: int
    positional_only: tuple[str, ...]
    defaults: dict[str, Any]

    def misfit(self, args: Sequence[object], kwargs: dict[str, Any]) -> str | None:
        """Say in what a call does not fit the parameters' names and number, or None."""
        if len(args) > self.positional:
            return f"`{self.task}` takes {_count(self.positional)}, {len(args)} were given"
        by_position = self.names[: len(args)]
        for name in kwargs:
            if name not in self.names:
                return f"`{self.task}` has no parameter `{name}`{self._meant(name)}"
            if name in self.positional_only:
                return f"`{self.task}`: parameter `{name}` is positional-only: pass it by position"
            if name in by_position:
                return f"`{self.task}`: parameter `{name}` is given twice, by position and by name"
        given = {*by_position, *kwargs, *self.defaults}
        missing = [name for name in self.names if name not in given]
        if missing:
            return f"`{self.task}`: parameter {' and '.join(f'`{n}`' for n in missing)} is missing"
        return None

    def _meant(self, name: str) -> str:
        if name in CALL_OPTIONS:
            return f"; it is an option: `{self.task}.options({name}=...).enqueue(...)`"
        return did_you_mean(name, self.names)


def resolve(task: str, function: Callable[..., object]) -> Signature:
    """Build the signature of `function`.

    Raises:
        TaskDefinitionError: an annotation cannot be resolved, or its type has no JSON form.
    """
    from inspect import signature

    parameters = list(signature(function).parameters.values())
    hints = _hints(task, function)
    fields: list[Field] = [
        (p.name, hints.get(p.name, Any), msgspec.NODEFAULT if p.default is p.empty else UNSET)
        for p in parameters
    ]
    positional = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)
    try:
        arguments = _struct(task, fields[:positional], fields[positional:])
        decode = msgspec.json.Decoder(arguments, dec_hook=from_json).decode
    except Exception as error:
        raise TaskDefinitionError(_blame(task, fields) or f"`{task}`: {error}") from error
    if blame := _blame(task, fields):
        raise TaskDefinitionError(blame)
    return Signature(
        task=task,
        arguments=arguments,
        decode=decode,
        names=tuple(p.name for p in parameters),
        positional=positional,
        positional_only=tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY),
        defaults={p.name: p.default for p in parameters if p.default is not p.empty},
    )


Returns = Literal["value", "nothing", "unsaid"]
"""What an annotation says that a function returns; "unsaid" if there is none."""


def returns(function: Callable[..., object]) -> Returns:
    """Read a return annotation without resolving it."""
    if "return" not in function.__annotations__:
        return "unsaid"
    nothing = function.__annotations__["return"] in (None, "None", type(None))
    return "nothing" if nothing else "value"


def result_decoder(task: str, function: Callable[..., object]) -> Callable[[bytes], Any]:
    """Build what reads a result as the return annotation of `function`.

    Raises:
        TaskDefinitionError: the annotation cannot be resolved, or its type has no JSON form.
    """
    kind = _hints(task, function).get("return", Any)
    try:
        return msgspec.json.Decoder(kind, dec_hook=from_json).decode
    except Exception as error:
        raise TaskDefinitionError(f"`{task}`: what it returns: {error}") from error


def from_json(kind: type, value: object) -> object:
    """Make what msgspec by itself does not know: paths, and `object`, which is anything."""
    if kind is object:
        return value
    if not _is_path(kind):
        raise TypeError(f"`{kind.__name__}` has no JSON form")
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)


Field = tuple[str, Any, Any]


def _hints(task: str, function: Callable[..., object]) -> dict[str, Any]:
    from typing import get_type_hints

    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:
        raise TaskDefinitionError(
            f"`{task}`: an annotation cannot be resolved: {error}. What it names must exist in the"
            " function's module when the program runs, not only under `if TYPE_CHECKING:`"
        ) from error


def _struct(task: str, positional: list[Field], by_name: list[Field]) -> type[Struct]:
    # A struct of strangers: `gc=False` is safe because it lives for one call of the codec.
    made = msgspec.defstruct(task, positional, forbid_unknown_fields=True, frozen=True, gc=False)
    if not by_name:
        return made
    return msgspec.defstruct(
        task,
        by_name,
        bases=(made,),
        kw_only=True,
        forbid_unknown_fields=True,
        frozen=True,
        gc=False,
    )


def _blame(task: str, fields: list[Field]) -> str | None:
    """Say which parameter has a type that JSON cannot carry, or None."""
    for name, kind, _default in fields:
        try:
            msgspec.json.Decoder(kind, dec_hook=from_json)
            why = next(_strangers(msgspec.inspect.type_info(kind), set()), None)
        except Exception as error:
            why = str(error)
        if why is not None:
            return f"`{task}`: parameter `{name}`: `{_type_name(kind)}` has no JSON form: {why}"
    return None


def _strangers(info: object, seen: set[int]) -> Iterator[str]:
    """Yield the types in a type that nobody can decode."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        if info.cls is not object and not _is_path(info.cls):
            yield f"`{info.cls.__qualname__}` is not plain data; pass what it is made from"
    elif isinstance(info, tuple):
        for part in info:
            yield from _strangers(part, seen)
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for attribute in info.__struct_fields__:
            yield from _strangers(getattr(info, attribute), seen)


def _is_path(kind: type) -> bool:
    from pathlib import PurePath  # not at the import of dibs: a tenth of a program's start

    return issubclass(kind, PurePath)


def _type_name(kind: object) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _count(positional: int) -> str:
    plural = "" if positional == 1 else "s"
    return f"{positional or 'no'} positional argument{plural}"
