"""For tests: the conformance suite of brokers, a clock moved by hand, messages to test with.

Owns: the public names. `dibs.testing.machine`, which needs hypothesis, is imported by itself.
Must never: be imported by anything else in dibs. It needs pytest: `pip install dibs[testing]`.
Called by: tests, dibs' own and those of whoever writes a broker.
"""

import pytest

# Before they are imported, or a failed case would not show its values.
pytest.register_assert_rewrite("dibs.testing.conformance", "dibs.testing.making")

from dibs.testing.clock import ClockFault, ManualClock  # noqa: E402
from dibs.testing.conformance import BrokerConformance  # noqa: E402
from dibs.testing.harness import Harness, MakeBroker  # noqa: E402

__all__ = ["BrokerConformance", "ClockFault", "Harness", "MakeBroker", "ManualClock"]
