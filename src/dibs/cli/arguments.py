"""How a job's arguments are written on a command line: `--arg NAME=VALUE`.

Owns: that a value is JSON where it reads as JSON, else text.
Must never: know a task.
Called by: `enqueue.py`, `selecting.py`.
"""

import msgspec

from dibs.errors import ArgumentError, OptionError

HELP = (
    "The value is JSON where it reads as JSON (64, true, [1, 2]), else text; text that reads as"
    " JSON is quoted: code='\"007\"'."
)


def named_values(given: tuple[str, ...]) -> dict[str, msgspec.Raw]:
    """Return the values of `--arg` options, by name, as JSON.

    Raises:
        OptionError: one is not of the form name=value, a name has a dot, or is given twice.
        ArgumentError: one is not UTF-8, or is nested too deeply.
    """
    values: dict[str, msgspec.Raw] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise OptionError(f"--arg {text!r} is not of the form name=value")
        if "." in name:
            way = """give its whole value, as in --arg order='{"id": 7}'"""
            raise OptionError(f"--arg {name}: the name of an argument has no dot: {way}")
        if name in values:
            raise OptionError(f"--arg {name} is given twice")
        values[name] = _json(name, value)
    return values


def nested_too_deeply(name: str) -> ArgumentError:
    """Return what to raise for a value that begins as JSON and goes down too far."""
    way = f"if it is text, quote it: {name}='\"...\"'"
    return ArgumentError(f"--arg {name}: its value is nested too deeply for JSON; {way}")


def _json(name: str, value: str) -> msgspec.Raw:
    try:
        data = value.encode()
    except UnicodeEncodeError as exc:
        raise ArgumentError(f"--arg {f'{name}={value}'!r} is not UTF-8") from exc
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return msgspec.Raw(msgspec.json.encode(value))
    except RecursionError as exc:
        raise nested_too_deeply(name) from exc
    return msgspec.Raw(data)
