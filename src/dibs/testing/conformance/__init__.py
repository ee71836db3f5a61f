"""The delivery contract as tests that any broker can be held to.

Owns: `BrokerConformance`, all groups of cases together.
Must never: skip a case; a case that a broker's capabilities rule out asserts the refusal instead.
Called by: pytest, through a class that says how to open a broker:

    class TestMyBroker(BrokerConformance):
        def make_harness(self, folder: Path) -> Harness:
            return Harness(partial(open_mine, folder / "queue"))

Each test is named by the rule of docs/contract.md that it holds. These rules are not a broker's
alone, and are held elsewhere: 15 (budgets: the broker counts, the policy decides), 18 (the
ledger), 25 to 29 (healing, bounded calls, lease upkeep, lost leases, shutdown: the worker, and the
adapters' own fault tests), 32 (a full disk: the adapters' own), 34 (unknown tasks: the worker).
4 (durability: tests/unit/sqlite/test_power.py for SQLite) and 7 are held by the adapters' own
tests where they can; 19, 20 and 31 come with their features.
"""

from dibs.testing.conformance.claiming import Claiming
from dibs.testing.conformance.counting import Counting
from dibs.testing.conformance.holding import Holding
from dibs.testing.conformance.keeping import Keeping
from dibs.testing.conformance.looking import Looking
from dibs.testing.conformance.mending import Mending
from dibs.testing.conformance.pausing import Pausing
from dibs.testing.conformance.publishing import Publishing
from dibs.testing.conformance.recording import Recording
from dibs.testing.conformance.sharing import Sharing
from dibs.testing.conformance.waiting import Waiting


class BrokerConformance(
    Publishing,
    Claiming,
    Holding,
    Counting,
    Keeping,
    Recording,
    Waiting,
    Sharing,
    Looking,
    Mending,
    Pausing,
):
    """Every case of the contract that a broker alone can keep."""
