"""The addresses behind a host's name, found within a time of one's own.

Owns: the thread that asks, because the system's resolver has no limit that one can set.
Must never: hold up its caller for longer than he said, or connect.
Called by: what makes connections.
"""

import socket
from queue import Empty, SimpleQueue
from threading import Thread


def addresses(host: str, port: int, seconds: float) -> list[str]:
    """Return the numeric addresses of a host, in the resolver's order, each once.

    Raises:
        OSError: it has none, it cannot be a host's name, or nobody said so in time.
    """
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # UnicodeError, too: not every text can be a name
            answers.put(error)
        else:
            answers.put(list(dict.fromkeys(str(place[4][0]) for place in found)))

    try:
        # One that is too late is left to the resolver's own limit, half a minute or so.
        Thread(target=ask, name="dibs-resolve", daemon=True).start()
        answer = answers.get(timeout=max(seconds, 0))
    except Empty:
        raise TimeoutError(f"no address of {host} was found within {seconds:.3g} s") from None
    except RuntimeError as error:
        raise OSError(f"the address of {host} cannot be looked up: {error}") from error
    if isinstance(answer, OSError):
        raise answer
    if isinstance(answer, Exception):
        raise OSError(f"{host!r} is no name of a host: {answer}") from answer
    return answer
