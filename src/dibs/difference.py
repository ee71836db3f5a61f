"""What JSON would change in a value on its way to a worker.

Owns: the comparison of a value as sent with the same as decoded, and the words for a difference.
Must never: ask a type's own `__eq__`, or call what an annotation asks for a change: a tuple that is
annotated as a set arrives as a set, and that is what the function wants.
Called by: `codec`, only when the two are not simply equal.
"""

from collections.abc import Iterable
from types import NoneType
from typing import Any

from msgspec import UNSET

_JSON = (str, int, float, bool, NoneType)


def difference(sent: object, received: Any) -> str | None:
    """Say how `received` is not what was `sent`, as the tail of a sentence; None if it is.

    Only what has a plain JSON type at the end can have lost the type that it had: anything else was
    made by an annotation. A list may stand for a tuple; JSON has no other.
    """
    kind = type(received)
    if kind in _JSON:
        return None if isinstance(sent, _JSON) and sent == received else _becomes(sent, received)
    if kind is dict:
        return _in_dict(sent, received)
    if kind in (list, tuple):
        if not isinstance(sent, list | tuple):
            return _becomes(sent, received) if kind is list else None
        pairs = zip(sent, received, strict=True)
        return next((why for one in pairs if (why := difference(*one))), None)
    return _in_fields(sent, received)


def _in_dict(sent: object, received: dict[Any, Any]) -> str | None:
    if not isinstance(sent, dict):
        return _becomes(sent, received)
    for key in sent:
        if key not in received:
            return f"has the key {key!r}, which would be lost or become text; {_WAY_OUT}"
    return next((why for key in sent if (why := difference(sent[key], received[key]))), None)


def _in_fields(sent: object, received: Any) -> str | None:
    kind: type = type(received)
    fields: Iterable[str] = getattr(kind, "__struct_fields__", ())
    fields = fields or getattr(kind, "__dataclass_fields__", ())
    if fields and isinstance(sent, kind) and type(sent) is not kind:
        return _becomes(sent, received)
    if type(sent) is not kind:
        return None
    values = ((getattr(sent, name, UNSET), getattr(received, name, UNSET)) for name in fields)
    return next((why for pair in values if (why := difference(*pair))), None)


_WAY_OUT = "annotate the parameter with the type that it shall have"


def _becomes(sent: object, received: object) -> str:
    return (
        f"is or holds `{type(sent).__qualname__}`, which would arrive as"
        f" `{type(received).__qualname__}`; {_WAY_OUT}"
    )
