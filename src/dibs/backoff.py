"""How long a job waits after each of its failures: what `@app.task(backoff=...)` takes.

Owns: the ways to make a `Backoff`, and their limits.
Must never: draw the delay; `policy` does, when there was a failure.
Called by: user code; tasks, for the default.
"""

from dibs.errors import OptionError
from dibs.message import Backoff
from dibs.options import Seconds, milliseconds

SHORTEST_MS = 100
"""Where random delays begin: a job that fails at once must not fail a thousand times a second."""


def exponential(*, first: Seconds = 2, longest: Seconds = 3_600) -> Backoff:
    """Return the backoff that doubles; after failure n it is random, "full jitter".

    The delay is drawn between 0.1 s and `first` after the first failure, and up to twice as much
    after each further one, `longest` at most. What failed together does so not come back together
    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        first: seconds, or a `timedelta`, at least 0.1.
        longest: seconds, or a `timedelta`, at least 0.1.

    Raises:
        OptionError: one of them is out of its range.
    """
    ceiling = milliseconds("first", first, SHORTEST_MS)
    last = milliseconds("longest", longest, SHORTEST_MS)
    ranges = []
    while ceiling < last:
        ranges.append((SHORTEST_MS, ceiling))
        ceiling *= 2
    return Backoff((*ranges, (SHORTEST_MS, last)))


def fixed(seconds: Seconds) -> Backoff:
    """Return the backoff that is the same after each failure.

    Args:
        seconds: or a `timedelta`; 0 is at once.

    Raises:
        OptionError: it is not within 0 and ten years.
    """
    return _exact("seconds", seconds)


def steps(*seconds: Seconds) -> Backoff:
    """Return the backoff that is each of `seconds` in turn; the last holds for all that follow.

    Args:
        seconds: one or more, or `timedelta`s; 0 is at once.

    Raises:
        OptionError: there is none, or one is not within 0 and ten years.
    """
    if not seconds:
        raise OptionError("`steps` has no delay: give one or more, as in `steps(1, 5, 60)`")
    return _exact("steps", *seconds)


def _exact(name: str, *seconds: Seconds) -> Backoff:
    delays = [milliseconds(name, one) for one in seconds]
    return Backoff(tuple((delay, delay) for delay in delays))
