"""The bell: a channel of the server that is listened to on a connection of its own.

Owns: that connection, the descriptor that stays the same while connections come and go, and what
was told through it and is not taken yet.
Must never: read what is handed over, or open anything before its descriptor is asked for.
Called by: `RedisBroker`.

A channel and not a blocking read: the server tells whoever rings how many heard it, so a waiter
that is gone costs nobody a ring, and there is nothing to ask for anew after each.
"""

import itertools
import math
import selectors
import socket

import hiredis

from dibs.clock import Clock
from dibs.wires.resp.link import Link

LOOK, LOOK_INSTEAD = b"", b"!"
"""What rings say: look; look, for nothing will be handed over now. Anything else is handed over."""
STANDS, TAKEN = 1, 2
"""What a claim says of the wish to be handed a message. If it is taken, the bell says by whom."""
RING_SECONDS = 0.1
"""How long is waited for what was said on the bell before an answer that came past it."""
QUIET_SECONDS = 10.0
"""After how long a silence is asked whether anybody is there. What is between may answer for a
peer that is gone, as a load balancer does, so the system's own asking is not enough."""
ANSWER_SECONDS = 2.0
"""How long is waited for the answer to that."""


class Bell:
    """Rung by the scripts, through `bell:` and the name of the waiter, which begins with `waiter`.

    A bell that is let go of while its wish stands has said nothing of who took that, and never
    will. The waiter has another name from then on, and the next claim says the one of before: what
    was told to that is given back. Of a name that is still in use, a claim that comes late would
    take away what was heard (test_what_was_heard_is_not_given_back_by_a_claim_that_comes_late).
    """

    def __init__(self, link: Link, waiter: str, clock: Clock) -> None:
        self._link = link
        self._names = map(f"{waiter}.{{}}".format, itertools.count())
        self._waiter = next(self._names)
        self._clock = clock
        self._heard_at = self._checked_at = -math.inf
        self._selector: selectors.DefaultSelector | None = None
        self._stream: socket.socket | None = None
        self.is_idle = False
        """Whether a message may be handed over. Whoever takes that wish away says so here, once."""
        self.lost = ""
        """The name of before, until a claim that said it is answered."""
        self.handed: list[bytes] = []
        """What was handed over, and is not taken yet."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when it was rung, or when its connection is lost.

        Raises:
            BrokerError: it cannot be hung up.
        """
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            self.hear()  # who lacks the right is refused here, where a worker ends
        return self._selector.fileno()

    def hear(self) -> str:
        """Take in what was said so far, and hang it up if it does not hang.

        Returns who is to be rung from now on: "" if nobody ever asked for the descriptor.

        Raises:
            BrokerError: it cannot be hung up.
        """
        if self._selector is None:
            return ""
        if not self._heard():
            self.take_down()
        if self._stream is None:
            self._link.call("SUBSCRIBE", f"{self._link.namespace}bell:{self._waiter}")
            stream = self._link.socket()
            stream.setblocking(False)
            self._selector.register(stream, selectors.EVENT_READ)
            self._stream = stream
            self._heard_at = self._clock.monotonic()
            self._heard()  # what came with the answer makes no descriptor readable
        return self._waiter

    def asked(self, wish: int) -> None:
        """Take in what has become of the wish of this waiter, as a claim says it.

        If the bell does not say by whom it was taken, it is dead without a sign, and let go of.
        """
        self.lost = ""
        if wish == TAKEN and self._selector is not None:
            while self.is_idle and self._selector.select(RING_SECONDS) and self._heard():
                pass
            if self.is_idle:
                self.take_down()
        self.is_idle = wish == STANDS

    def check(self) -> None:
        """Ask whether anybody is there, after a silence; let go of the one that did not answer."""
        now = self._clock.monotonic()
        if self._stream is None or now < self._heard_at + QUIET_SECONDS:
            return
        if self._checked_at > self._heard_at:
            if now > self._checked_at + ANSWER_SECONDS:
                self.take_down()
            return
        self._checked_at = now
        try:
            self._link.say("PING")
        except OSError:
            self.take_down()

    def take_down(self) -> None:
        """Let go of the connection, when all that came is heard."""
        self._heard()
        if self._selector is not None and self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream = None
        self._link.close()
        if self.is_idle:
            self.is_idle = False
            self.lost, self._waiter = self._waiter, next(self._names)

    def close(self) -> None:
        """Give up the descriptor."""
        self.take_down()
        if self._selector is not None:
            self._selector.close()
            self._selector = None

    def _heard(self) -> bool:
        """Take in what was said; return whether more may be."""
        try:
            for push in self._link.pushes() if self._stream is not None else ():
                self._heard_at = self._clock.monotonic()
                if not isinstance(push, list) or push[0] != b"message":
                    continue  # an answer: to `check`, if only that it is not allowed
                said = push[2]
                self.is_idle = self.is_idle and said == LOOK
                if said not in (LOOK, LOOK_INSTEAD):
                    self.handed.append(said)
        except (OSError, hiredis.ProtocolError):
            return False
        return True
