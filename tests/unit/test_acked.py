"""Plain acknowledgements travel as leases, and nobody who looks at a settlement can tell."""

from hypothesis import given
from hypothesis import strategies as st

from dibs.acked import Acked
from dibs.brokers.ends import acks_of
from dibs.message import Ack, Lease, Settlement
from dibs.testing.making import message


def leases(*fences: int) -> list[Lease]:
    return [Lease(message(), fence, 0, 0, 0, 1, receipt) for receipt, fence in enumerate(fences)]


def test_it_is_a_sequence_of_its_settlements() -> None:
    some = leases(1, 2, 1)
    made = [Settlement(lease, Ack()) for lease in some]
    acked = Acked(some)
    assert list(acked) == made
    assert len(acked) == 3
    assert [acked[0], acked[-1]] == [made[0], made[-1]]
    assert list(acked[1:3]) == made[1:3]
    assert made[2] in acked
    assert not Acked([])


@given(st.lists(st.integers(1, 4)))
def test_it_comes_to_the_same_as_its_settlements(fences: list[int]) -> None:
    acked = Acked(leases(*fences))
    assert acks_of(acked) == acks_of(list(acked))
