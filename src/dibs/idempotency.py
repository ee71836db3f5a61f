"""Idempotency keys: what a job carries, so that what is done is not done by another job again.

Owns: how a key is made of a call's parameters, the header that carries it, and the id under which
the record of a key is kept.
Must never: ask a broker, or take a value for a key that is not the same text wherever it is made.
Called by: tasks at their definition, deliveries for each call, runners and the pump, which write
and look up records, and `checks`, which refuses a key where no record can be kept.
"""

from collections.abc import Iterable

from msgspec import Struct

from dibs.errors import ArgumentError, OptionError
from dibs.message import Message
from dibs.spelling import did_you_mean

HEADER = "idempotency-key"
KEPT_SECONDS = 30 * 24 * 3_600
_LONGEST_BYTES = 512
"""Of the task's name and the key, as they are a message's unique key too."""


class Field(Struct, frozen=True):
    """A place in a key: the text before it, and the parameter, or what is inside of it by name."""

    before: str
    path: tuple[str, ...]


class KeyForm(Struct, frozen=True):
    """How the keys of a task are made; `after` is the text after the last field."""

    task: str
    fields: tuple[Field, ...]
    after: str

    @property
    def parameters(self) -> set[str]:
        """The parameters that a key is made of."""
        return {field.path[0] for field in self.fields}

    def key(self, values: dict[str, object]) -> str:
        """Return the key of a call whose parameters are `values`, as plain JSON.

        Raises:
            ArgumentError: a value is no text or number, or the key is empty or too long.
        """
        parts = [field.before + self._text(field.path, values) for field in self.fields]
        key = "".join((*parts, self.after))
        if key and len(unique_key(self.task, key).encode()) <= _LONGEST_BYTES:
            return key
        shown = f"{key[:60]}..." if len(key) > 60 else key
        raise ArgumentError(
            f"`{self.task}`: its idempotency key is {shown!r}: with the task's name it has 1 to"
            f" {_LONGEST_BYTES} bytes; make it of shorter parameters"
        )

    def _text(self, path: tuple[str, ...], values: dict[str, object]) -> str:
        value: object = values
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1.0 and 1 are the same argument to a caller
        if isinstance(value, int | float):
            return str(value).lower()  # `true` and `false` as in JSON
        found = "null, or is not there" if value is None else f"a {type(value).__name__}"
        raise ArgumentError(
            f"`{self.task}`: `{{{'.'.join(path)}}}` of its idempotency key is {found}: a key is"
            " made of text and numbers, for others would not be the same each time"
        )


def key_form(task: str, text: object, parameters: Iterable[str]) -> KeyForm:
    """Read the `idempotency_key` of a task, such as "charge-{order}".

    Raises:
        OptionError: it is no such text, or names what is no parameter.
    """
    from string import Formatter  # not at the import of dibs: few tasks have a key

    if not isinstance(text, str):
        raise _wrong(task, text, "it is text with the task's parameters in it")
    try:
        text.encode()
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise _wrong(task, text, str(error)) from error
    fields: list[Field] = []
    before = ""
    for literal, name, spec, conversion in pieces:
        before += literal
        if name is None:  # a brace, or the end
            continue
        if spec or conversion:
            raise _wrong(task, text, f"a name in it stands alone, as in {{{name}}}")
        if fields and not before:
            raise _wrong(task, text, "put text between two names, or 1 and 23 are as 12 and 3")
        fields.append(Field(before, _path(task, text, name, tuple(parameters))))
        before = ""
    if not fields:
        raise _wrong(task, text, "it names no parameter, so that all jobs would have the same key")
    return KeyForm(task, tuple(fields), after=before)


def unique_key(task: str, key: str) -> str:
    """Return the unique key of a job: no two of one idempotency key are live at a time."""
    return f"{task} {key}"


def record_id(message: Message) -> bytes | None:
    """Return the id under which the record of a message's key is kept; None if it has no key."""
    key = message.headers.get(HEADER)
    if key is None:
        return None
    from hashlib import sha256  # a part of a worker's start, and few jobs have a key

    return sha256(f"{message.task}\0{key}".encode()).digest()[:16]


def _path(task: str, text: str, name: str, parameters: tuple[str, ...]) -> tuple[str, ...]:
    path = tuple(name.split("."))
    if not all(part.isidentifier() for part in path):
        raise _wrong(task, text, f"{{{name}}} is no parameter's name")
    if path[0] not in parameters:
        near = did_you_mean(path[0], parameters)
        raise _wrong(task, text, f"`{task}` has no parameter `{path[0]}`{near}")
    return path


def _wrong(task: str, text: object, why: str) -> OptionError:
    return OptionError(
        f"the `idempotency_key` of `{task}` is {text!r}: {why}; the form is 'charge-{{order}}'"
    )
