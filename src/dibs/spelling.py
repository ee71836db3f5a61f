"""What was meant by a name that nobody knows.

Owns: the words "did you mean". Must never: guess silently; callers raise with what it says.
Called by: whoever refuses a name: of a parameter, a task, an option, a URL scheme.
"""

from collections.abc import Iterable

_SHOWN = 12


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which of `known` is near `name`, as the tail of a sentence; else list a few of them."""
    from difflib import get_close_matches  # only who errs waits for the import

    names = sorted(known)
    near = get_close_matches(name, names, n=3)
    if near:
        return f"; did you mean {_listed(near, 'or')}?"
    if not names:
        return "; there is none"
    shown = names[:_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"; there is {', '.join(f'`{shown_name}`' for shown_name in shown)}{more}"


def _listed(names: list[str], joint: str) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {joint} {quoted[-1]}"
