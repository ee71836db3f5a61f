"""What a task raises to say itself what becomes of its job.

Owns: the three exceptions, and what each asks for.
Must never: decide on a budget: a `Retry` is judged like any failure, by `policy`.
Called by: user code, which raises them; the runners, which read them.

They are ordinary exceptions until they leave a task, so `with` and `finally` see them, and so does
whoever calls the task plainly. `__module__` is where users import them from: it is what is printed.
"""

from dibs.errors import OptionError
from dibs.options import Seconds, milliseconds

SHORTEST_SNOOZE_MS = 100
"""Nothing else bounds how often a job is put off: this keeps it from spinning."""


class Retry(Exception):
    """Raise it to fail this run and have the next one after `after`.

    It counts as a failure like any other: the job is a dead letter after `max_attempts` of them.
    `raise Retry(...) from exc` keeps the text of `exc` with the job.

    Args:
        reason: for whoever reads of it.
        after: seconds, or a `timedelta`, until the next run; by default what `backoff` says.

    Raises:
        OptionError: `after` is not within 0 and ten years, or `reason` is no text.
    """

    __module__ = "dibs"
    after_ms: int | None = None  # also of a subclass that forgets to call this `__init__`

    def __init__(self, reason: str = "", *, after: Seconds | None = None) -> None:
        if not isinstance(reason, str):  # else the next run would come when nobody asked for it
            raise OptionError(f"`reason` is {reason!r}, not a text: did you mean `after=`?")
        super().__init__(reason)
        self.after_ms = None if after is None else milliseconds("after", after)


class Snooze(Exception):
    """Raise it to give the job back: it runs again after `seconds`, and nothing is counted.

    Args:
        seconds: or a `timedelta`; at least a tenth of a second.

    Raises:
        OptionError: `seconds` is not within a tenth of a second and ten years.
    """

    __module__ = "dibs"
    delay_ms = SHORTEST_SNOOZE_MS  # also of a subclass that forgets to call this `__init__`

    def __init__(self, seconds: Seconds) -> None:
        super().__init__(seconds)
        self.delay_ms = milliseconds("seconds", seconds, SHORTEST_SNOOZE_MS)


class Reject(Exception):
    """Raise it to give the job up: it is a dead letter at once, its reason `rejected`.

    `raise Reject(...) from exc` keeps the text and the traceback of `exc` with the job.

    Args:
        why: for whoever looks after the dead letters.
    """

    __module__ = "dibs"

    def __init__(self, why: str) -> None:
        super().__init__(why)
