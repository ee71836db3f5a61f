"""Arguments arrive as they were sent, or the call that sent them says which does not fit."""

import io
import math
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dibs.codec import Codec
from dibs.delivery import Delivery
from dibs.errors import ArgumentError, PayloadError, ResultError, TaskDefinitionError
from dibs.signature import CALL_OPTIONS


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Shade(StrEnum):
    DARK = "dark"


@dataclass
class Point:
    x: int
    y: float | None = None
    note: Any = field(default=None, compare=False)


class Box(msgspec.Struct):
    corner: Point
    tags: list[str] = []


class Movie(TypedDict):
    title: str
    year: int


class Rude:
    """Encodes as nothing does, and breaks comparisons."""


class Picky(msgspec.Struct, eq=False):
    value: int

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return 0


def resize(path: str, width: int = 200) -> str:
    return f"{path} {width}"


def anything(value=None):  # no annotation: what a task without types looks like
    return value


def codec(function: Callable[..., object]) -> Codec:
    return Codec(function.__name__, function)


def sent(function: Callable[..., object], *args: object, **kwargs: object) -> object:
    """What the function would get, called as a worker would."""
    both = codec(function)
    args, kwargs = both.decode(both.encode(args, kwargs))
    return function(*args, **kwargs)


def taking(kind: object) -> Callable[..., object]:
    """A function `f(value: kind)` that returns its argument."""

    def f(value):
        return value

    f.__annotations__["value"] = kind
    return f


def refusal(function: Callable[..., object], *args: object, **kwargs: object) -> str:
    with pytest.raises(ArgumentError) as caught:
        codec(function).encode(args, kwargs)
    return str(caught.value)


def misfit(function: Callable[..., object], payload: bytes) -> str:
    with pytest.raises(PayloadError) as caught:
        codec(function).decode(payload)
    return str(caught.value)


def test_a_payload_is_an_object_of_the_parameters_by_name() -> None:
    assert codec(resize).encode(("a.jpg",), {"width": 64}) == b'{"path":"a.jpg","width":64}'


def test_what_was_not_given_is_left_to_the_functions_own_default() -> None:
    assert codec(resize).encode(("a.jpg",), {}) == b'{"path":"a.jpg"}'
    assert sent(resize, "a.jpg") == "a.jpg 200"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)),
        (datetime, datetime(2026, 1, 2)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(days=-3, seconds=1)),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (Colour, Colour.RED),
        (Level, Level.LOW),
        (Shade, Shade.DARK),
        (Point, Point(1, 2.5)),
        (Box, Box(Point(1), ["a"])),
        (Movie, {"title": "Brazil", "year": 1985}),
        (Literal["a", 1], 1),
        (int | None, None),
        (str | None, "null"),
        (bytes, b"\xff\x00"),
        (set[int], {1, 2}),
        (tuple[int, str], (1, "a")),
        (dict[int, list[Decimal]], {1: [Decimal(2)]}),
        (dict[UUID, float], {UUID(int=1): 0.5}),
        (Path, Path("a/b.jpg")),
        (Path | None, None),
        (PurePosixPath, PurePosixPath("/a")),
        (list[dict[str, Path]], [{"a": Path("b")}]),
        (Annotated[int, msgspec.Meta(ge=1)], 1),
        (object, {"a": [1, None, "x"]}),
        (int, 2**200),
        (float, 1),
        (Any, -(2**63) - 1),
        (Any, {"a": [None, True, 1.5, "null"]}),
    ],
)
def test_what_an_annotation_asks_for_arrives(kind: object, value: object) -> None:
    assert sent(taking(kind), value) == value
    assert type(sent(taking(kind), value)) in (type(value), float)


def test_annotations_may_be_text_and_name_what_is_defined_later() -> None:
    def f(value):
        return value

    f.__annotations__["value"] = "LateStruct | None"
    assert sent(f, LateStruct(3)) == LateStruct(3)


def test_every_kind_of_parameter_works() -> None:
    def f(a, b=2, c=3, /, d=4, *, e, g=6):
        return a, b, c, d, e, g

    assert sent(f, 1, e=5) == (1, 2, 3, 4, 5, 6)
    assert sent(f, 1, 0, 0, 0, e=0) == (1, 0, 0, 0, 0, 6)
    assert sent(f, 1, d=7, e=5, g=8) == (1, 2, 3, 7, 5, 8)
    # No call can say this, but another language can.
    args, kwargs = codec(f).decode(b'{"a":1,"c":9,"e":5}')
    assert f(*args, **kwargs) == (1, 2, 9, 4, 5, 6)


def test_a_list_stands_for_a_tuple_where_nothing_is_annotated() -> None:
    assert sent(anything, (1, (2,))) == [1, [2]]


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {"path": "a", "widht": 1}, "`resize` has no parameter `widht`; did you mean `width`?"),
        (("a",), {"zzz": 1}, "`resize` has no parameter `zzz`; there is `path`, `width`"),
        ((), {}, "`resize`: parameter `path` is missing"),
        (("a", 1, 2), {}, "`resize` takes 2 positional arguments, 3 were given"),
        (("a",), {"path": "b"}, "`resize`: parameter `path` is given twice, by position and by"),
        (("a", "b"), {}, "`resize`: parameter `width`: expected `int`, got `str`"),
        ((None,), {}, "`resize`: parameter `path`: expected `str`, got `null`"),
        (("a", 1.0), {}, "`resize`: parameter `width`: expected `int`, got `float`"),
        (("a", True), {}, "`resize`: parameter `width`: expected `int`, got `bool`"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_by_name(
    args: tuple[object, ...], kwargs: dict[str, object], says: str
) -> None:
    assert refusal(resize, *args, **kwargs).startswith(says)


def test_an_option_that_is_passed_as_an_argument_is_called_one() -> None:
    says = "has no parameter `{0}`; it is an option: `resize.options({0}=...).enqueue(...)`"
    options = signature(Delivery.options).parameters.keys() - {"self"}
    for name in options:
        assert refusal(resize, "a", **{name: 1}).endswith(says.format(name))
    assert options == CALL_OPTIONS


def test_the_path_to_a_value_within_an_argument_is_named() -> None:
    assert refusal(taking(Box), Box(Point(1), ["a", 2])) == (
        "`f`: parameter `value.tags[1]`: expected `str`, got `int`"
    )
    assert refusal(taking(dict[int, int]), {"a": 1}) == (
        "`f`: parameter `value` (a key): expected `int`, got `str`"
    )


def test_a_positional_only_parameter_is_refused_by_name() -> None:
    def f(a, /, b=1):
        return a, b

    assert refusal(f, a=1) == "`f`: parameter `a` is positional-only: pass it by position"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        (Any, lambda x: x),
        (float, lambda x: x),
        (float | None, lambda x: x),
        (list[float | None], lambda x: [None, x]),
        (Any, lambda x: {"a": [{"b": x}]}),
        (Any, lambda x: {x: 1}),
        (Point, lambda x: Point(1, x)),
        (Point, lambda x: Point(1, note=[x])),
        (Box, lambda x: Box(Point(1, x))),
    ],
)
def test_nan_and_infinity_are_refused_wherever_they_are(
    value: float, kind: object, wrapped: Callable[[float], object]
) -> None:
    text = refusal(taking(kind), wrapped(value))
    assert text.startswith("`f`: parameter `value` ")
    assert str(value).lstrip("-") in text


def test_a_lone_surrogate_is_refused() -> None:
    for value in ("\ud800", ["\udfff"], {"\ud800": 1}):
        text = refusal(anything, value)
        assert text.startswith("`anything`: parameter `value` has a lone surrogate")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_beyond_reason_is_refused_on_both_sides() -> None:
    assert refusal(anything, nested(200_000)) == (
        "`anything`: parameter `value` is nested too deeply for JSON"
    )
    for opened in (b"[" * 200_000, b'{"a":' * 200_000):
        assert "nested too deeply" in misfit(anything, b'{"value":' + opened)
    # Between what C code can nest and what Python code can.
    for depth in range(200, 1_000, 50):
        try:
            codec(anything).encode((nested(depth), {"a": None}), {})
        except ArgumentError:
            break


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Any, datetime(2026, 1, 1, tzinfo=UTC), "holds `datetime`, which would arrive as `str`"),
        (str, UUID(int=1), "holds `UUID`, which would arrive as `str`"),
        (Any, Colour.RED, "holds `Colour`, which would arrive as `str`"),
        (Any, [{1}], "holds `set`, which would arrive as `list`"),
        (Any, b"x", "holds `bytes`, which would arrive as `str`"),
        (Any, Point(1), "holds `Point`, which would arrive as `dict`"),
        (dict, {"a": {1: 2}}, "has the key 1, which would be lost or become text"),
        (Movie, {"title": "a", "year": 1, "more": 2}, "has the key 'more', which would be lost"),
        (float, 2**63 + 1, "holds `int`, which would arrive as `float`"),
        (Any, [10**5_000], "cannot be sent as JSON: Exceeds the limit"),
        (Any, Rude(), "cannot be sent as JSON: `Rude` has no JSON form"),
        (Any, {None: 1}, "cannot be sent as JSON: "),
        (Any, Path("a"), "holds `PosixPath`, which would arrive as `str`"),
    ],
)
def test_nothing_changes_in_silence(kind: object, value: object, says: str) -> None:
    text = refusal(taking(kind), value)
    assert text.startswith("`f`: parameter `value` ")
    assert says in text


def test_a_subclass_that_would_lose_its_fields_is_refused() -> None:
    @dataclass
    class Point3(Point):
        z: int = 0

    assert "holds `test_a_subclass" in refusal(taking(Point), Point3(1, z=2))
    assert "would arrive as `Point`" in refusal(taking(Point), Point3(1, z=2))


def test_a_types_own_comparison_is_not_needed() -> None:
    assert sent(taking(Picky), Picky(1)).value == 1  # type: ignore[attr-defined]


def test_an_annotation_may_ask_for_another_type_than_was_sent() -> None:
    assert sent(taking(Path), "a") == Path("a")
    assert sent(taking(set[int]), [1, 1]) == {1}
    assert sent(taking(Point), {"x": 1}) == Point(1)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (io.TextIOBase, "parameter `value`: `TextIOBase` has no JSON form"),
        (list[dict[str, range]], "`list[dict[str, range]]` has no JSON form: `range` is not plain"),
        (bytes | str, "parameter `value`: `bytes | str` has no JSON form: Type unions may not"),
        (Path | str, "Type unions containing a custom type"),
        ("Nowhere", "an annotation cannot be resolved: name 'Nowhere' is not defined"),
    ],
)
def test_a_type_without_a_json_form_is_refused_at_the_first_use(kind: object, says: str) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        codec(taking(kind)).encode((1,), {})
    assert str(caught.value).startswith("`f`: ")
    assert says in str(caught.value)
    with pytest.raises(PayloadError, match="`f`"):
        codec(taking(kind)).decode(b'{"value":1}')


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "its arguments cannot be decoded: Input data was truncated"),
        (b"null", "are not an object of the parameters by name: expected `object`, got `null`"),
        (b'["a", 1]', "are not an object of the parameters by name"),
        (b"{}", "`resize`: parameter `path` is missing"),
        (b'{"path":1}', "`resize`: parameter `path`: expected `str`, got `int`"),
        (b'{"path":"a","widht":1}', "has no parameter `widht`; did you mean `width`?"),
        (b'{"path":"a"} {}', "cannot be decoded: JSON is malformed: trailing characters"),
        (b'{"path":"a","width":NaN}', "cannot be decoded: JSON is malformed"),
        (b'{"path":"a","width":1e999}', "parameter `width`: number out of range"),
        (b'{"path":"\xff"}', "its arguments are not UTF-8"),
        (b'{"path":"\\ud800"}', "its arguments cannot be decoded"),
        (b'{"path":' + b"[" * 200_000, "parameter `path`: expected `str`, got `array`"),
        (b"\x80\x04cos\nsystem\n(S'id'\ntR.", "its arguments cannot be decoded"),
    ],
)
def test_a_foreign_payload_that_does_not_fit_says_why(payload: bytes, says: str) -> None:
    text = misfit(resize, payload)
    assert text.startswith("the payload does not fit: `resize`")
    assert says in text


def test_of_duplicate_keys_the_last_counts() -> None:
    assert codec(resize).decode(b'{"path":"a","path":"b"}') == (("b",), {})


def test_a_constructor_that_raises_is_a_misfit() -> None:
    @dataclass
    class Grumpy:
        x: int

        def __post_init__(self) -> None:
            raise RuntimeError("not today")

    assert "not today" in misfit(taking(Grumpy), b'{"value":{"x":1}}')


class OutOfTime(Exception):
    """A time limit of the caller's, as a signal's handler raises it."""


def interrupted(*_: object) -> None:
    raise OutOfTime


@dataclass
class Slow:
    """Takes so long to make, or to compare, that the caller's time is over."""

    x: int
    where: str = "made"

    def __post_init__(self) -> None:
        if Slow.making and self.where == "made":
            signal.raise_signal(signal.SIGUSR1)

    def __eq__(self, other: object) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return True

    __hash__ = None  # type: ignore[assignment]
    making = False


@pytest.mark.parametrize("where", ["made", "compared"])
def test_what_a_signals_handler_raises_is_not_swallowed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = Slow(1, where)
    monkeypatch.setattr(Slow, "making", True)
    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        with pytest.raises(OutOfTime):
            codec(taking(Slow)).encode((value,), {})
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_reason_is_never_empty() -> None:
    @dataclass
    class Silent:
        kind: str

        def __post_init__(self) -> None:
            if Silent.picky:
                raise {"value": ValueError, "key": KeyError}[self.kind]

        picky = False

    values = {kind: Silent(kind) for kind in ("value", "key")}
    Silent.picky = True
    assert refusal(taking(Silent), values["value"]) == "`f`: parameter `value`: ValueError"
    assert refusal(taking(Silent), values["key"]).endswith("cannot be decoded: KeyError")
    with pytest.raises(ArgumentError) as caught:
        codec(taking(Silent)).encode((values["key"],), {})
    assert type(caught.value.__cause__) is KeyError, "it is seen where it was raised"
    assert misfit(taking(Silent), b'{"value":{"kind":"key"}}').endswith("decoded: KeyError")


def test_results_are_json_too() -> None:
    both = codec(resize)
    assert (
        both.encode_result({"path": Path("a"), "nothing": None}) == b'{"path":"a","nothing":null}'
    )
    for value, says in [
        (math.nan, "holds nan, which JSON cannot carry"),
        ([{"a": math.inf}, None], "holds inf"),
        ("\ud800", "has a lone surrogate"),
        (nested(200_000), "is nested too deeply for JSON"),
        (Rude(), "cannot be sent as JSON: `Rude` has no JSON form"),
    ]:
        with pytest.raises(ResultError) as caught:
            both.encode_result(value)
        assert str(caught.value).startswith("what `resize` returned ")
        assert says in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_any_json_value_survives_without_an_annotation(value: object) -> None:
    got = sent(anything, value)
    assert got == value
    assert type(got) is type(value)


@given(
    st.builds(
        Box,
        st.builds(Point, st.integers(), st.none() | st.floats(allow_nan=False, width=32).filter(
            math.isfinite)),
        st.lists(st.text()),
    )
)  # fmt: skip
def test_any_structure_survives_with_its_annotation(box: Box) -> None:
    assert sent(taking(Box), box) == box


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(
        st.characters(exclude_categories=())) | st.binary() | st.dates() | st.decimals(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.sets(st.integers())
    | st.dictionaries(st.text() | st.integers() | st.floats(), inner),
    max_leaves=10,
)  # fmt: skip


@given(hostile)
def test_any_value_arrives_as_it_was_or_is_refused(value: object) -> None:
    both = codec(anything)
    try:
        payload = both.encode((value,), {})
    except ArgumentError as refused:
        payload = None
        text = str(refused)
    if payload is None:
        assert "parameter `value`" in text
    else:
        ((got,), _) = both.decode(payload)
        assert got == as_lists(value)


def as_lists(value: object) -> object:
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value


def everything(
    a: Any, b: Box, c: Movie, d: Path | None = None, e: dict[UUID, Decimal] | None = None
) -> None: ...


@given(
    st.binary()
    | json_values.map(msgspec.json.encode)
    | st.dictionaries(st.sampled_from("abcde"), json_values).map(msgspec.json.encode)
)
def test_no_bytes_raise_anything_but_a_payload_error(payload: bytes) -> None:
    for function in (everything, resize, anything):
        with suppress(PayloadError):
            codec(function).decode(payload)


class LateStruct(msgspec.Struct):
    x: int
