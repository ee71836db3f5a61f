"""The main module of a runner process: `python -m dibs.runners.child`, started by `processes.py`.

Owns: the start of a fresh interpreter: signals, the working directory on the import path, the
import of the user's app and the look at its tasks, and the end when the pump is gone.
Must never: import apsw or open a broker by itself; user code does when it enqueues.
Called by: the operating system. Arguments: descriptors of the link, the loop's link and the
box, app path, slots, and the broker's URL, empty for the app's own.
"""

import gc
import io
import os
import signal
import socket
import sys
import threading
import time
from types import ModuleType

from dibs.errors import UserError
from dibs.loading import import_app
from dibs.runners.blackbox import BlackBox
from dibs.runners.contract import THE_PUMPS, Hello, ImportFailed, encode

_PR_SET_PDEATHSIG = 1
_SETTLED_SECONDS = 1.0


def main() -> None:
    """Run jobs of the app until the pump says quit or is gone."""
    parent = os.getppid()
    *descriptors, path, slots, url = sys.argv[1:7]
    # Ctrl-C, a service manager's SIGTERM and the SIGHUP of a closed terminal reach every process of
    # the group; the pump alone decides what becomes of running jobs. Not SIG_IGN: the programs that
    # a task starts would inherit it, and could not be terminated.
    for kind in THE_PUMPS:
        signal.signal(kind, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, THE_PUMPS)
    # What tasks print must be in the log when it happened, also where the log is a pipe.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    link, loops_link = (socket.socket(fileno=int(place)) for place in descriptors[:2])
    box = BlackBox(int(descriptors[2]), int(slots))
    try:
        app = import_app(path)
        if url:
            app.redirect(url)
        for task in app.tasks.values():
            task.resolve()
        hello = Hello(app.url, [task.info for task in app.tasks.values()], _files())
    except UserError as exc:
        link.sendall(encode(ImportFailed(str(exc))))
        raise SystemExit(2) from None
    link.sendall(encode(hello))
    # After the hello, because it imports asyncio: the pump opens the broker meanwhile.
    from dibs.runners.host import Host

    host = Host((link, loops_link), app.tasks, box, int(slots), abandoned=_die)
    # What the import made stays: to walk through it at each full collection is time off the jobs'.
    gc.freeze()
    guard = threading.Thread(target=_guard, args=(parent,), name="dibs-guard", daemon=True)
    guard.start()
    host.run()


def _die() -> None:
    os._exit(1)


def _guard(parent: int) -> None:
    """Have the kernel end this process with the pump, even while a task holds the interpreter.

    Elsewhere than on Linux the end of the link must do, which needs the interpreter's lock. The
    kernel keeps the wish with the thread that made it, so this one stays.
    """
    if sys.platform != "linux":
        return
    time.sleep(_SETTLED_SECONDS)
    import ctypes  # costs 5 ms, which the first job should not wait for

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        _die()  # the pump died before the kernel was told
    threading.Event().wait()


def _files() -> list[str]:
    """Return the files of the imported modules that are the user's own, for `--reload`."""
    modules: list[ModuleType] = list(sys.modules.values())
    named = (getattr(module, "__file__", None) for module in modules)
    return [
        f for f in named if f and "site-packages" not in f and not f.startswith(sys.base_prefix)
    ]


if __name__ == "__main__":
    main()
