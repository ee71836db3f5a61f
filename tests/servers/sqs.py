"""A server of the tests' own that speaks SQS: moto's, in a process of its own.

Owns: its process and its end, its time, and what had to be mended of moto for it to be a server.
Run as a program it serves until it is killed: `python -m tests.servers.sqs` prints its port.

Its time is the machine's until a test sets it; from then on it stands still until it is set again.
How moto differs from Amazon SQS, for whoever writes a test:

- It holds one copy of each message and grants in order of sending; SQS samples its servers, may
  find nothing where something is, and keeps no order. So no test here can rest on order, or on what
  a single receive finds.
- It forgets everything when it ends; SQS keeps it (B48: a test of a restart asks for no old job).
- It changes the visibility of, and deletes by, any receipt that a message ever had (B49); SQS
  ignores or refuses an old one. So it is the adapter that must not send one.
- It counts the twelve hours of a lease from when the message was sent, not from its receive.
- Its threads tear at one list without a lock, so messages get lost or come twice: mended here.
- A message is hidden one tick too long: mended here.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from dibs.testing.clock import ManualClock
from tests.worker.workers import SECONDS

CLOCK = "/clock"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_names = count()


class Server:
    """A running server at `endpoint`; whoever speaks to it needs `KEYS` in its environment."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def url(self, prefix: str | None = None) -> str:
        """Return a broker's URL; without a prefix, one that nobody else has."""
        return f"sqs://eu-west-1/{prefix or self.new_prefix()}?endpoint={self.endpoint}"

    def new_prefix(self) -> str:
        """Return a prefix that nobody else has."""
        return f"t{next(_names)}-"

    def set_time(self, wall_ms: int | None) -> None:
        """Stop its clock at a moment; None lets it run, with the machine's."""
        body = json.dumps(wall_ms).encode()
        urllib.request.urlopen(self.endpoint + CLOCK, data=body, timeout=SECONDS).close()

    def follow(self, clock: ManualClock) -> None:
        """Set its clock to a test's."""
        self.set_time(clock.wall_ms())


@contextmanager
def keys_set() -> Iterator[None]:
    """Have `KEYS` in the environment, for this process and what it starts."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """Start a server, and stop it after."""
    command = [sys.executable, "-m", "tests.servers.sqs", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield Server(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait(SECONDS)
        process.stdout.close()


# What follows runs in the server's process.


class ServersClock:
    """The machine's time, or one that stands still."""

    def __init__(self) -> None:
        self._stopped_at: int | None = None

    def __call__(self, _: object = None) -> float:
        """Milliseconds since 1970, in the place of moto's own."""
        return time.time() * 1_000 if self._stopped_at is None else self._stopped_at

    def set(self, body: bytes) -> None:
        """Do as `Server.set_time` asks."""
        self._stopped_at = json.loads(body)


def mended(clock: ServersClock) -> None:
    """Give moto this clock, one lock, and messages that are back when their time is over."""
    from moto.sqs import models

    backend, changed = models.SQSBackend, threading.Condition(threading.RLock())
    setattr(models, "unix_time_millis", clock)  # noqa: B010
    setattr(models.Message, "visible", property(lambda self: clock() >= self.visible_at))  # noqa: B010

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with changed:
                changed.notify_all()
                return method(*args, **kwargs)

        return call

    def receive(self: Any, queue: str, most: int, wait: int, hidden: int, *rest: Any) -> Any:
        until = time.monotonic() + wait
        with changed:
            while not (found := take(self, queue, most, 0, hidden, *rest)):
                left = until - time.monotonic()
                if left <= 0:
                    break
                changed.wait(min(left, 0.1))  # the clock may be set
            return found

    take = backend.receive_message
    for name in ("send_message", "send_message_batch", "delete_message_batch", "purge_queue",
                 "change_message_visibility_batch", "create_queue", "delete_queue"):  # fmt: skip
        setattr(backend, name, locked(getattr(backend, name)))
    setattr(backend, "receive_message", receive)  # noqa: B010


def main(port: int) -> None:
    """Serve for ever."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    clock = ServersClock()
    mended(clock)
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == CLOCK:
            clock.set(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            start_response("204 No Content", [("Content-Length", "0")])
            return []
        return moto(environ, start_response)

    server = make_server("127.0.0.1", port, app, True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
