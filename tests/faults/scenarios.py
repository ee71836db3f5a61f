"""What is done to a broker and its workers while jobs are under way, one scenario a time.

Owns: the scenarios by name, and how large a run is.
Must never: judge; or leave the harm done: what a scenario breaks is mended when it returns.
Called by: `run.py`.
"""

from collections.abc import Callable

from msgspec import Struct

from dibs.testing.proxy import Faults, LostReply
from tests.faults.field import Field
from tests.faults.grounds import AWAY_SECONDS, Ground


class Size(Struct, frozen=True):
    """How much harm is done: for `seconds`, while a share of the ground's jobs comes, evenly.

    `restart_seconds` is how long a server is up before it is ended again, `kill_seconds` a worker;
    a black hole lasts `hole_seconds`, and a connection `reset_bytes` at most. A call may outlast
    its time-out by `grace_seconds`, which are more where other tests run beside.
    """

    seconds: float
    restart_seconds: float
    kill_seconds: float
    hole_seconds: float
    reset_bytes: int
    share: float = 1.0
    grace_seconds: float = 1.0


FULL = Size(
    seconds=65.0, restart_seconds=20.0, kill_seconds=2.0, hole_seconds=30.0, reset_bytes=200_000
)
SHORT = Size(
    seconds=4.0,
    restart_seconds=1.5,
    kill_seconds=1.0,
    hole_seconds=4.0,
    reset_bytes=20_000,
    share=0.015,
    grace_seconds=2.0,
)


class Scenario(Struct, frozen=True):
    """A kind of harm, and whether it is done on the network, or to a server.

    `harm` returns how often it was done. `severs`: it may come between a publish and its confirm.
    `unended` is what it is instead where the server cannot be ended.
    """

    what: str
    harm: Callable[[Field, Size], int]
    network: bool = True
    severs: bool = True
    unended: str | None = None

    def on(self, ground: Ground) -> str:
        """Say what is done to a broker."""
        return self.what if ground.ends or self.unended is None else self.unended


def restart_server(field: Field, size: Size) -> int:
    """End the server again and again, at once or in order, and start it anew.

    One that cannot be ended is stopped, and goes on.
    """
    restarts = 0
    while field.goes_on(size.restart_seconds, size.seconds):
        (field.server.stop if restarts % 2 else field.server.kill)()
        field.server.start()
        restarts += 1
    return restarts


def kill_workers(field: Field, size: Size) -> int:
    """SIGKILL the worker that holds most, again and again; another takes its place."""
    kills = 0
    while field.goes_on(size.kill_seconds, size.seconds):
        field.kill(field.busiest())
        field.start_worker()
        kills += 1
    field.await_workers()
    return kills


def stop_worker(field: Field, size: Size) -> int:
    """Stop the worker that holds most for three visibility timeouts, then let it go on.

    Once its pump alone, which finds then what its runners have done meanwhile, and once all of it.
    What it holds for most of a lease is a long job that runs: another has it when the pump goes on.
    """
    seconds = 3 * field.ground.lease_seconds
    while field.goes_on(0.5, size.seconds):
        field.stop(field.busiest(0.75 * field.ground.lease_seconds), seconds, whole=False)
        field.pause(0.5)
        field.stop(field.busiest(), seconds, whole=True)
    return len(field.stops)


def lose_acks(field: Field, size: Size) -> int:
    """Lose the reply to each tenth settlement that took effect."""
    return _suffer(field, size, Faults(lost_reply=LostReply(field.ground.settles, every=10)))


def lose_confirms(field: Field, size: Size) -> int:
    """Lose the confirm of each tenth publish that took effect."""
    ground = field.ground
    lost = LostReply(ground.publishes, every=10, reply=ground.confirms)
    return _suffer(field, size, Faults(lost_reply=lost))


def reset_at_random(field: Field, size: Size) -> int:
    """Reset each connection somewhere in the middle of something."""
    return _suffer(field, size, Faults(reset_within_bytes=size.reset_bytes))


def swallow_all(field: Field, size: Size) -> int:
    """Let nothing through, on old connections and new ones, and tell nobody."""
    field.network.suffer(Faults(stalled=True, connects="ignored"))
    field.pause(size.hole_seconds)
    return 1


def _suffer(field: Field, size: Size, faults: Faults) -> int:
    field.network.suffer(faults)
    field.pause(size.seconds)
    return field.network.traffic.lost_replies + field.network.traffic.resets


SCENARIOS = {
    "restart": Scenario(
        "server ended and started again",
        restart_server,
        unended=f"server stopped for {AWAY_SECONDS:g} s, and let go on",
    ),
    "kill": Scenario("worker killed", kill_workers, network=False),
    "pause": Scenario(
        "worker stopped for three visibility timeouts", stop_worker, network=False, severs=False
    ),
    "lost-ack": Scenario("each tenth ack's reply lost", lose_acks, severs=False),
    "lost-confirm": Scenario("each tenth publish's confirm lost", lose_confirms),
    "reset": Scenario("reset at random bytes", reset_at_random),
    "black-hole": Scenario("black hole", swallow_all),
}
