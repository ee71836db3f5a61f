"""What a Redis server is set to, and what that means for the contract.

Owns: how the settings are asked for, the level of durability that they give, and what is refused.
Must never: change a setting. Called by: `RedisBroker` and its inspector.
"""

from msgspec import Struct

from dibs.brokers.capabilities import Durability
from dibs.brokers.contract import Finding
from dibs.brokers.privacy import connection
from dibs.wires.resp.link import Link

OLDEST = (7, 0)
LEVELS: dict[str, tuple[Durability, str]] = {
    "always": ("D2", "append-only file, appendfsync=always"),
    "everysec": ("D1", "append-only file, appendfsync=everysec: a crash may cost 2 s"),
    "no": ("D1", "append-only file, appendfsync=no: a power loss may cost half a minute"),
    "unknown": ("D1", "append-only file; how often it is synced, the server does not say"),
    "off": ("D0", "no append-only file: a restart may lose all since the last snapshot"),
}
SYNC = "CONFIG SET appendonly yes, appendfsync always, and so in its file: that is D2"
EVICTS = "jobs would vanish when memory is full: CONFIG SET maxmemory-policy noeviction"
OPEN = Finding("password", "none", "note", "whoever reaches its port owns the queues: use ACLs")


class Settings(Struct, frozen=True):
    """The settings that matter. `fsync` is a key of `LEVELS`; "" is what the server did not say."""

    version: str
    fsync: str
    eviction: str
    role: str
    cluster: bool
    guarded: bool
    connection: Finding


def settings_of(link: Link) -> Settings:
    """Ask the server.

    Raises:
        BrokerError: it cannot be asked.
    """
    info, fsync = link.info(), "off"
    if info.get("aof_enabled") != "0":
        fsync = link.setting("appendfsync") or "unknown"
    return Settings(
        version=info.get("redis_version", ""),
        fsync=fsync if fsync in LEVELS else "unknown",
        eviction=info.get("maxmemory_policy", ""),
        role=info.get("role", ""),
        cluster=info.get("cluster_enabled") == "1",
        guarded=any(command[0] == "AUTH" for command in link.address.greeting()),
        connection=connection(*link.way(), "use rediss://"),
    )


def findings(found: Settings) -> list[Finding]:
    """Say what is good, worth knowing, or to be refused."""
    version = tuple(int(part) for part in found.version.split(".")[:2] if part.isdigit())
    cluster, policy = "on" if found.cluster else "off", found.eviction
    always = found.fsync == "always"
    return [
        _judged("version", found.version, version >= OLDEST, "dibs needs Redis 7.0 or later"),
        _judged("cluster mode", cluster, not found.cluster, "use a server without cluster mode"),
        _judged("role", found.role, found.role != "slave", "use the address of the primary"),
        _judged("maxmemory-policy", policy, policy == "noeviction", EVICTS),
        Finding("appendfsync", found.fsync, "good" if always else "note", "" if always else SYNC),
        Finding("password", "given", "good") if found.guarded else OPEN,
        found.connection,
    ]


def _judged(what: str, found: str, good: bool, advice: str) -> Finding:
    if not found:
        return Finding(what, "unknown", "note", "the server does not say; see its INFO")
    return Finding(what, found, "good" if good else "bad", "" if good else advice)
