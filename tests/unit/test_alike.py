"""What is alike travels as columns, and nobody who looks at a message can tell."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dibs.alike import Alike, ids_of, queues_of, runs_of
from dibs.message import Message
from dibs.testing.making import message, messages

PATTERNS = [
    message(),
    message("mails"),
    message(task="shrink"),
    message(due_ms=5, priority=3, headers={"a": "b"}),
    message(unique_key="k", version=2),
]


def alike(count: int) -> tuple[list[Message], Alike]:
    made = [replace(message(), args=b"%d" % n) for n in range(count)]
    return made, Alike(made[0], [m.id for m in made], [m.args for m in made])


def test_it_is_a_sequence_of_its_messages() -> None:
    made, columns = alike(5)
    assert list(columns) == made
    assert len(columns) == 5
    assert [columns[0], columns[-1]] == [made[0], made[-1]]
    assert list(columns[1:4]) == made[1:4]
    assert made[2] in columns
    assert ids_of(columns) == ids_of(made)
    assert queues_of(columns) == {"photos"}


@given(st.lists(st.sampled_from(PATTERNS)))
def test_any_batch_is_cut_into_runs_and_is_the_same(patterns: list[Message]) -> None:
    batch = [replace(p, id=n.to_bytes(16), args=b"%d" % n) for n, p in enumerate(patterns)]
    runs = runs_of(batch)
    assert [one for run in runs for one in run] == batch
    kinds = [replace(run.pattern, id=b"", args=b"") for run in runs]
    assert all(one != following for one, following in pairwise(kinds))
    assert queues_of(batch) == {one.queue for one in batch}


def test_a_run_is_not_cut_again() -> None:
    _, columns = alike(3)
    assert runs_of(columns) == [columns]
    assert [len(run) for run in runs_of(messages(4))] == [4]
    assert runs_of([]) == []
