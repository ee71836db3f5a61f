"""The addresses behind a host's name, found within a time of one's own.

Owns: the thread that asks, because the system's resolver has no limit that one can set.
Must never: connect, or hold up its caller for longer than he said while a thread can begin.
Called by: what makes connections.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any


def addresses(host: str, port: int, seconds: float) -> list[str]:
    """Return the numeric addresses of a host, in the resolver's order, each once.

    Raises:
        OSError: it has none, it cannot be a host's name, or nobody said so in time.
    """
    with suppress(ValueError):
        ip_address(host)
        return [host]
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # UnicodeError, too: not every text can be a name
            answers.put(error)
        else:
            answers.put(list(dict.fromkeys(_numeric(place[4]) for place in found)))

    try:
        # One that is too late is left to the resolver's own limit, half a minute or so.
        Thread(target=ask, name="dibs-resolve", daemon=True).start()
    except RuntimeError:
        ask()  # no thread can begin any more, as the interpreter ends: to that limit, then
    try:
        answer = answers.get(timeout=max(seconds, 0))
    except Empty:
        raise TimeoutError(f"no address of {host} was found within {seconds:.3g} s") from None
    if isinstance(answer, OSError):
        raise answer
    if isinstance(answer, Exception):
        raise OSError(f"{host!r} is no name of a host: {answer}") from answer
    return answer


def _numeric(place: Sequence[Any]) -> str:
    """Return the address of a place with its zone: one that is link-local leads nowhere without."""
    zone = place[3] if len(place) > 3 else 0
    return f"{place[0]}%{zone}" if zone else str(place[0])
