"""Who can read along on the way to a server: what `dibs doctor` says of a connection.

Owns: the words, which are the same for all brokers, and what counts as this machine.
Must never: refuse a connection: only who runs the network knows whether others are on it.
Called by: the inspectors of brokers that are reached over a network.
"""

from dibs.brokers.contract import Finding

_NEAR = ("", "localhost", "127.0.0.1", "::1")


def connection(host: str, verified: bool | None, advice: str) -> Finding:
    """Judge a connection to `host`, which is "" for a socket in the file system.

    `verified`: whether the server had to prove by TLS who it is; None if there is no TLS.
    """
    found = "not encrypted"
    if verified is not None:
        found = f"TLS, the server {'' if verified else 'not '}verified"
    if verified or host in _NEAR:
        return Finding("connection", found, "good")
    return Finding("connection", found, "note", f"{advice} where others can read along")
