"""Text for people: what cannot steer the terminal that shows it, and numbers that can be read.

Must never: write anything itself.
Called by: whatever prints or logs.
"""

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_LINE = {code: ascii(chr(code))[1:-1] for code in (*_CONTROLS, 0x2028, 0x2029)}
_TEXT = {code: shown for code, shown in _LINE.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Return text of several lines with what could steer a terminal written out as its code.

    A task's name and an exception's text may come from anybody who can enqueue a job.
    """
    return _encodable(text.translate(_TEXT))


def one_line(text: str, limit: int = 200) -> str:
    """Return text as a part of one line."""
    shown = _encodable(text.translate(_LINE))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def duration(seconds: float) -> str:
    """Return a duration as people say it: 0.25 s, 3.2 s, 47 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} d"


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: 1 job, 1,204 jobs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
