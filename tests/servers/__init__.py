"""Private servers for tests: each on a free loopback port of its own, with throw-away data.

Owns: what every such server can be asked, whatever it serves.
Must never: touch a server that the tests did not start.
Called by: the tests of the brokers that are servers, and tests/faults/, which ends and starts them.
"""

from typing import Protocol


class Server(Protocol):
    """A running server. It listens on `port` of 127.0.0.1, the same after each start.

    `url` is the address of its broker in dibs, or, with a port, of a proxy there in front of it.
    `stop` ends it in order, `kill` at once; `start` brings it back with the data that it had, and
    returns when it answers.
    """

    @property
    def port(self) -> int: ...

    def url(self, port: int | None = None) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...
