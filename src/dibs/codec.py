"""Arguments to bytes and back, validated against a task's signature.

Owns: the JSON form of a call (an object of the parameters by name), the check that what a worker
will decode is what the caller sent, and the texts that name the parameter that does not fit.
Must never: import a type by a name from the wire, change a value in silence, or let any bytes raise
anything but `PayloadError`.
Called by: tasks when a call is enqueued, runners at their start, before a job runs and after it
returned, and the ledger.

Of duplicate keys in a foreign payload the last counts: to refuse them would take a second parser on
the worker's hottest path, and nobody reads the first.
"""

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from types import NoneType
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from dibs.difference import difference
from dibs.errors import ArgumentError, PayloadError, ResultError, TaskDefinitionError
from dibs.signature import Returns, Signature, resolve, result_decoder, returns
from dibs.spelling import did_you_mean

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


def _to_json(value: object) -> str:
    from pathlib import PurePath  # not at the import of dibs: a tenth of a program's start

    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"`{type(value).__qualname__}` has no JSON form")


_VALUES = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
_MISFITS = (msgspec.MsgspecError, *_VALUES)
"""What a conversion to or from JSON raises, those of a user's types included. Whatever else comes
is from elsewhere, as from a signal's handler that keeps a time limit, and not ours to swallow."""

_encode = msgspec.json.Encoder(enc_hook=_to_json).encode


def encode_value(value: object) -> bytes:
    """Return any value as JSON.

    Raises:
        ValueError: it has no JSON form (NaN, a lone surrogate, a cycle, an open file, ...); the
            text goes on after whose value it is.
    """
    try:
        encoded = _encode(value)
        why = _not_finite(value) if encoded.find(b"null") >= 0 else None
    except _MISFITS as error:
        raise ValueError(_no_json(error)) from error
    if why is not None:
        raise ValueError(why)
    return encoded


class Codec:
    """The JSON form of the calls and results of one task.

    Its signature is read at the first use, not at the definition: by then every name in its
    annotations exists. Any thread may use it.
    """

    __slots__ = ("_decode_result", "_function", "_signature", "_task")

    def __init__(self, task: str, function: Callable[..., object]) -> None:
        self._task = task
        self._function = function
        self._signature: Signature | None = None
        self._decode_result: Callable[[bytes], Any] | None = None

    def resolve(self, *, result: bool) -> None:
        """Resolve the signature, and what reads a result if there is one to keep.

        A worker asks at its start, so that errors show there.

        Raises:
            TaskDefinitionError: an annotation cannot be resolved, or its type has no JSON form.
        """
        self.signature()
        if result:
            self._result_decoder()

    def signature(self) -> Signature:
        """Return the resolved signature.

        Raises:
            TaskDefinitionError: an annotation cannot be resolved, or its type has no JSON form.
        """
        # Two threads may both resolve it: to the same, so no lock is needed.
        signature = self._signature
        if signature is None:
            signature = self._signature = resolve(self._task, self._function)
        return signature

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the payload of a call, having made sure that a worker will get the same values.

        Arguments not given are left out: the function's own defaults apply where it runs.

        Raises:
            ArgumentError: the arguments do not fit the signature, or have no JSON form.
            TaskDefinitionError: the signature itself is at fault (see `signature`).
        """
        signature = self._signature or self.signature()
        # The common case runs in C: the struct binds as a call does, the decode validates, and one
        # comparison proves that nothing changed on the way. msgspec writes NaN as null; `find`
        # takes half the time of `in`.
        try:
            values = signature.arguments(*args, **kwargs)
            payload = _encode(values)
            decoded = signature.decode(payload)
        except _MISFITS as error:
            # The text says it all, in the task's words; a chain would bury it.
            misfit = self._misfit(signature, args, kwargs, error)
            raise ArgumentError(misfit) from None if str(error) else error
        try:
            same = decoded == values
        except _MISFITS:  # a user's own `__eq__`: ask `difference`, which does not
            same = False
        if not same or payload.find(b"null") >= 0 or (kwargs and signature.positional_only):
            why = self._change(signature, args, kwargs, decoded)
            if why is not None:
                raise ArgumentError(why)
        return payload

    def decode(self, payload: bytes) -> Arguments:
        """Return the positional and keyword arguments that `payload` holds.

        Raises:
            PayloadError: it does not fit the signature, is not JSON, or is nested too deeply.
        """
        try:
            signature = self._signature or self.signature()
            values = astuple(signature.decode(payload))
        except Exception as error:  # a type's own constructor may raise anything
            raise PayloadError(f"the payload does not fit: {self._because(error)}") from error
        if len(values) != signature.positional:
            return _by_name(signature, values)
        given = values
        while given and given[-1] is UNSET:
            given = given[:-1]
        for value in given:
            if value is UNSET:
                return _by_name(signature, values)
        return given, {}

    def values(self, payload: bytes, names: Iterable[str]) -> dict[str, object]:
        """Return parameters of a call as the plain JSON that they are, by name.

        One that was left out has the function's own default.

        Raises:
            ArgumentError: a default has no JSON form.
        """
        signature = self._signature or self.signature()
        call = signature.decode(payload)
        found: dict[str, object] = {}
        for name in names:
            value = getattr(call, name)
            try:
                given = signature.defaults[name] if value is UNSET else value
                found[name] = msgspec.to_builtins(given, enc_hook=_to_json)
            except Exception as error:
                why = _no_json(error)
                raise ArgumentError(f"`{self._task}`: parameter `{name}` {why}") from error
        return found

    def encode_result(self, value: object) -> bytes:
        """Return what a task returned, as JSON.

        Raises:
            ResultError: it has no JSON form: NaN, a lone surrogate, a cycle, an open file, ...
        """
        try:
            return encode_value(value)
        except ValueError as error:
            raise ResultError(f"what `{self._task}` returned {error}") from error

    def decode_result(self, result: bytes) -> Any:
        """Return what a task returned, as its return annotation says.

        Raises:
            ResultError: it does not fit the annotation.
            TaskDefinitionError: the annotation cannot be resolved, or has no JSON form.
        """
        decode = self._result_decoder()
        try:
            return decode(result)
        except Exception as error:  # a type's own constructor may raise anything
            raise ResultError(
                f"what `{self._task}` returned does not fit its return annotation: {_text(error)}"
            ) from error

    @property
    def returns(self) -> Returns:
        """What the annotation says that the task returns."""
        return returns(self._function)

    def _result_decoder(self) -> Callable[[bytes], Any]:
        decode = self._decode_result
        if decode is None:
            decode = self._decode_result = result_decoder(self._task, self._function)
        return decode

    def _change(
        self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], decoded: object
    ) -> str | None:
        """Say what a worker would get other than it was sent, or None."""
        if kwargs and signature.positional_only and (why := signature.misfit(args, kwargs)):
            return why
        for name, value in {**dict(zip(signature.names, args, strict=False)), **kwargs}.items():
            received = getattr(decoded, name)
            if type(value) in _EXACT and type(received) is type(value):
                continue
            try:
                why = _not_finite(value) or difference(value, received)
            except _MISFITS as error:
                why = _no_json(error)
            if why is not None:
                return f"`{self._task}`: parameter `{name}` {why}"
        return None

    def _misfit(
        self,
        signature: Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        error: Exception,
    ) -> str:
        """Say which argument of a call is at fault for `error`."""
        if why := signature.misfit(args, kwargs):
            return why
        for name, value in {**dict(zip(signature.names, args, strict=False)), **kwargs}.items():
            try:
                _encode(value)
                why = _not_finite(value)
            except _MISFITS as culprit:
                why = _no_json(culprit)
            if why is not None:
                return f"`{self._task}`: parameter `{name}` {why}"
        return self._because(error)

    def _because(self, error: Exception) -> str:
        """Put the reason why a payload cannot be decoded in the words of the task."""
        text, task = _text(error), self._task
        if isinstance(error, TaskDefinitionError):
            return text
        if isinstance(error, RecursionError):
            return f"`{task}`: its arguments are nested too deeply"
        if isinstance(error, UnicodeDecodeError):
            return f"`{task}`: its arguments are not UTF-8: {text}"
        if not isinstance(error, msgspec.ValidationError):
            return f"`{task}`: its arguments cannot be decoded: {text}"
        what, _, where = text.partition(" - at ")
        what = what[:1].lower() + what[1:] or _text(error.__cause__ or error)
        if where:
            return f"`{task}`: parameter {_parameter(where)}: {what}"
        name = what.rpartition(" ")[2].strip("`")
        if what.startswith("object missing"):
            return f"`{task}`: parameter `{name}` is missing"
        if what.startswith("object contains unknown"):
            known = () if self._signature is None else self._signature.names
            return f"`{task}` has no parameter `{name}`{did_you_mean(name, known)}"
        return f"`{task}`: its arguments are not an object of the parameters by name: {what}"


_EXACT = (str, int, bool, NoneType)


def _by_name(signature: Signature, values: tuple[Any, ...]) -> Arguments:
    """Pass by name whatever can be: what was left out may stand before what was given."""
    given = {
        name: value
        for name, value in zip(signature.names, values, strict=True)
        if value is not UNSET
    }
    positional: list[Any] = []
    by_position = signature.positional_only
    while any(name in given for name in by_position):
        name, by_position = by_position[0], by_position[1:]
        positional.append(given.pop(name) if name in given else signature.defaults[name])
    return tuple(positional), given


def _no_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply for JSON"
    if isinstance(error, UnicodeEncodeError):
        return f"has a lone surrogate, which is not text that UTF-8 can carry: {error}"
    return f"cannot be sent as JSON: {_text(error)}"


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _parameter(where: str) -> str:
    """Turn msgspec's path, as in "`$.tags[1]`" or "`key` in `$.tags`", into a parameter's."""
    key, _, path = where.rpartition(" in ")
    path = path.strip("`").removeprefix("$.")
    return f"`{path}` (a key)" if key else f"`{path}`"


def _not_finite(value: object) -> str | None:
    """Find a NaN or an infinity, which JSON does not have and msgspec writes as null."""
    found = next(_infinities(msgspec.to_builtins(value, enc_hook=_to_json)), None)
    return None if found is None else f"holds {found}, which JSON cannot carry"


def _infinities(value: object) -> Iterator[float]:
    if isinstance(value, float):
        if not isfinite(value):
            yield value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield from _infinities(key)
            yield from _infinities(held)
    elif isinstance(value, list | tuple | set | frozenset):
        for held in value:
            yield from _infinities(held)
