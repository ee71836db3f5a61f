"""How long hypothesis searches, and how many processes the tests run in.

By default it searches a little; with `--hypothesis-profile thorough` a lot.
"""

import signal

from hypothesis import settings

from dibs.worker.service import usable_cores

settings.register_profile(
    "quick", max_examples=40, stateful_step_count=30, deadline=None, derandomize=True
)
settings.register_profile("thorough", max_examples=5_000, stateful_step_count=100, deadline=None)
settings.load_profile("quick")

# What runs the tests may ignore these (`nohup`, a shell's background); the workers that tests start
# would inherit that, and they must hear them.
for kind in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(kind) is signal.SIG_IGN:
        signal.signal(kind, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are cores: for half of its time a test waits."""
    return usable_cores() + 1
