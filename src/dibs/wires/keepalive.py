"""Connections on which nothing is said for long.

Owns: how soon the system finds out that a peer is gone, which also keeps what is between from
forgetting one that is there.
Must never: be all that ends a call to a silent server: that is its limit.
Called by: the connections to Redis and RabbitMQ. libpq has settings of its own for it.
"""

import socket

_OPTIONS = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
"""After how many seconds of silence the system asks for the peer (by either of two names), how many
later again, and how often; each where a platform has it."""


def keep_alive(stream: socket.socket) -> None:
    """Have the system ask for the peer of a connection over TCP; of others nothing is asked."""
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)
