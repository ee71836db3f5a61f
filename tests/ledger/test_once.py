"""The effect of a job is done once, whatever connection it is done through."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dibs import once
from dibs.errors import LeaseLost, LedgerError, ResultError
from dibs.ledger import CREATE_TABLE
from tests.ledger.shops import KINDS, OTHER_JOB, Shop, job

ON_POSTGRESQL = [kind for kind in KINDS if kind.dialect == "postgresql"]
MY_KEY = "00000000-0000-0000-0000-000000000001"


def charge(shop: Shop, connection: Any, n: int = 1, key: str | None = None) -> bool:
    """Do the effect through `once`; return whether it was done now."""
    with once(connection, key) as first:
        if first:
            shop.charge(connection, n)
    return bool(first)


def fail(shop: Shop, connection: Any, n: int = 1, key: str | None = None) -> None:
    """Do half of the effect, and raise."""
    with once(connection, key):
        shop.charge(connection, n)
        raise KeyError("the other half")


def test_a_redelivery_finds_the_effect_done_and_its_result(shop: Shop) -> None:
    with shop.open() as connection, job(fence=1), once(connection) as first:
        assert first
        assert first == True  # noqa: E712 - what is promised
        assert first.result is None
        shop.charge(connection, 1)
        first.record({"receipt": 17})
        assert first.result == {"receipt": 17}
    assert shop.charged() == [1]
    assert shop.keys() == [MY_KEY]
    with shop.open() as connection, job(fence=2), once(connection) as first:
        assert not first
        assert first == False  # noqa: E712 - what is promised
        assert first.result == {"receipt": 17}
    assert shop.charged() == [1]


def test_jobs_do_not_get_into_each_others_way(shop: Shop) -> None:
    with shop.open() as connection:
        with job(fence=2):
            assert charge(shop, connection, 1)
        with job(fence=1, id=OTHER_JOB):
            assert charge(shop, connection, 2)
    assert shop.charged() == [1, 2]


def test_a_block_that_raises_leaves_nothing_behind(shop: Shop) -> None:
    with shop.open() as connection:
        with pytest.raises(KeyError), job(fence=1):
            fail(shop, connection)
        assert (shop.charged(), shop.keys()) == ([], [])
        with job(fence=2):
            assert charge(shop, connection), "the connection can be used again"
    assert shop.charged() == [1]


def test_a_lower_fence_is_refused_and_writes_nothing(shop: Shop) -> None:
    with shop.open() as connection:
        with job(fence=2):
            assert charge(shop, connection)
        with pytest.raises(LeaseLost, match="fence 2; this one has fence 1"), job(fence=1):
            charge(shop, connection, 2)
        with job(fence=3):
            assert not charge(shop, connection)
    assert shop.charged() == [1]


def charge_and_fail(shop: Shop, connection: Any) -> None:
    with shop.own(connection):
        assert charge(shop, connection)
        raise KeyError("after the block")


def test_in_a_transaction_of_the_callers_the_commit_is_the_callers(shop: Shop) -> None:
    with shop.open() as connection:
        with pytest.raises(KeyError), job(fence=1):
            charge_and_fail(shop, connection)
        assert (shop.charged(), shop.keys()) == ([], [])
    with shop.open() as connection, job(fence=2):
        with shop.own(connection):
            shop.charge(connection, 7)
            assert charge(shop, connection)
            assert shop.keys() == [], "nothing is committed yet"
        assert (shop.charged(), shop.keys()) == ([1, 7], [MY_KEY])


def test_a_block_that_raises_takes_nothing_of_the_callers_with_it(shop: Shop) -> None:
    with shop.open() as connection, job(fence=1), shop.own(connection):
        shop.charge(connection, 7)
        with pytest.raises(KeyError):
            fail(shop, connection)
        assert charge(shop, connection, 2), "and it is still to be done"
    assert shop.charged() == [2, 7]


def charge_and_commit(shop: Shop, connection: Any) -> None:
    with once(connection):
        shop.charge(connection, 1)
        shop.kind.commit(connection)


def test_a_block_that_ends_the_transaction_itself_is_told(shop: Shop) -> None:
    # Django refuses it in an error of its own.
    told = pytest.raises(Exception, match=r"inside its block|'atomic' block")
    with shop.open() as connection, job(fence=1), told:
        charge_and_commit(shop, connection)
    # What it had committed is committed, the row with it.
    with shop.open() as connection, job(fence=2):
        charge(shop, connection)
    assert shop.charged() == [1]


def charge_twice(shop: Shop, connection: Any) -> None:
    with once(connection):
        shop.charge(connection, 1)
        with pytest.raises(Exception, match="duplicate"):
            shop.charge(connection, 1)


@pytest.mark.parametrize("kind", ON_POSTGRESQL, ids=lambda kind: kind.name)
def test_an_error_that_the_block_ignored_is_no_success(shop: Shop) -> None:
    with shop.open() as connection:
        told = pytest.raises(Exception, match=r"error that the block ignored|aborted")
        with job(fence=1), told:
            charge_twice(shop, connection)
        with job(fence=2):
            assert charge(shop, connection, 2)
    assert shop.charged() == [2]


def test_a_second_block_of_a_run_needs_a_key_of_its_own(shop: Shop) -> None:
    with shop.open() as connection, job(fence=1):
        assert charge(shop, connection, 1)
        with pytest.raises(LedgerError, match="a key of its own"):
            charge(shop, connection, 2)
        assert charge(shop, connection, 3, key="mail")
        assert not charge(shop, connection, 4, key="mail"), "a key of yours is yours to repeat"
    assert shop.charged() == [1, 3]


def test_blocks_nest(shop: Shop) -> None:
    with shop.open() as connection, job(fence=1):
        with once(connection) as outer:
            assert outer
            assert charge(shop, connection, 1, key="inner")
            assert not charge(shop, connection, 2, key="inner")
            with pytest.raises(LedgerError, match="a key of its own"):
                charge(shop, connection, 3)
            with pytest.raises(KeyError):
                fail(shop, connection, 4, key="other")
        assert shop.charged() == [1]
        assert shop.keys() == [MY_KEY, "inner"]


def test_a_key_is_shared_by_jobs_whatever_their_fences(shop: Shop) -> None:
    with shop.open() as connection:
        with job(fence=5):
            assert charge(shop, connection, 1, key="order 17")
        with job(fence=1, id=OTHER_JOB):
            assert not charge(shop, connection, 1, key="order 17")
        assert not charge(shop, connection, 1, key="order 17"), "and with what is no job"
        assert charge(shop, connection, 2, key="order 18")
        with job(fence=1):
            assert not charge(shop, connection, 2, key="order 18")
    assert shop.charged() == [1, 2]


def test_of_many_at_the_same_time_one_does_it(shop: Shop) -> None:
    # The ledger is not there yet: they all want to make it.
    start = threading.Barrier(6)

    def run(fence: int) -> bool | None:
        with shop.open() as connection, job(fence):
            start.wait(30)
            try:
                return charge(shop, connection)
            except LeaseLost:
                return None

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(run, range(1, 7)))
    assert answers.count(True) == 1
    assert answers.index(True) == next(n for n, done in enumerate(answers) if done is not None)
    assert shop.charged() == [1]


@pytest.mark.parametrize("how", ["commits", "fails"])
def test_a_second_run_waits_for_the_first(shop: Shop, how: str) -> None:
    with shop.open() as connection:
        assert charge(shop, connection, 9, key="the ledger is made")
    first_is_in, second_asks = threading.Event(), threading.Event()

    def first_run() -> None:
        with shop.open() as connection, job(fence=1), once(connection) as first:
            assert first
            first_is_in.set()
            assert second_asks.wait(30)
            shop.charge(connection, 1)
            if how == "fails":
                raise KeyError

    def second_run() -> bool:
        with shop.open() as connection, job(fence=2):
            assert first_is_in.wait(30)
            second_asks.set()
            return charge(shop, connection, 2)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(first_run), threads.submit(second_run)
        assert (one.exception() is None) == (how == "commits")
        assert other.result() is (how == "fails")
    assert shop.charged() == ([1, 9] if how == "commits" else [2, 9])


def test_the_table_may_be_made_by_hand(shop: Shop) -> None:
    with shop.outside() as run:
        run(CREATE_TABLE)
    with shop.open() as connection, job(fence=1):
        assert charge(shop, connection)
    assert shop.keys() == [MY_KEY]


def test_a_result_can_be_replaced_inside_the_block_and_not_after(shop: Shop) -> None:
    with shop.open() as connection:
        with job(fence=1), once(connection) as first:
            first.record("draft")
            first.record(["final"])
        with pytest.raises(LedgerError, match="is over"):
            first.record("late")
        with job(fence=2), once(connection) as first:
            assert first.result == ["final"]
            with pytest.raises(LedgerError, match="an earlier run"):
                first.record("again")


def record(shop: Shop, connection: Any, value: object) -> None:
    with once(connection) as first:
        shop.charge(connection, 1)
        first.record(value)


@pytest.mark.parametrize("value", [{"price": float("nan")}, object()], ids=["NaN", "object"])
def test_a_result_that_is_no_json_undoes_the_effect(shop: Shop, value: object) -> None:
    told = pytest.raises(ResultError, match="what is to be recorded")
    with shop.open() as connection, job(fence=1), told:
        record(shop, connection, value)
    assert (shop.charged(), shop.keys()) == ([], [])


def test_a_key_is_needed_where_no_job_runs(shop: Shop) -> None:
    with shop.open() as connection:
        with pytest.raises(LedgerError, match="no job is running here"), once(connection):
            pass
        for key in ("", "a\0b", "\ud800", "x" * 513, 17):
            with pytest.raises(LedgerError, match="not printable"), once(connection, key):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
                pass
        assert charge(shop, connection, key="x" * 512)
