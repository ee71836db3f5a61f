"""The command line: `dibs`, which is also `python -m dibs`.

Owns: the exit codes, and that a user's mistake is one clear text and never a traceback.
Must never: import at the top what a command may not need: the start of a worker is a budget.
Called by: the `dibs` script, `__main__.py`.

Exit codes: 0 done, or stopped in order; 1 stopped with jobs released late, a failed audit, or not
all moved that was to be; 2 a user's mistake, a broker that cannot be used, or an output that cannot
be written; 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    if sys.stdout is None:  # nothing is begun: the next file that is opened would become it
        return _not_written("stdout is closed; `>/dev/null` throws it away")
    if sys.stderr is None:
        return _not_written("stderr is closed; `2>/dev/null` throws it away", err=False)
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _stop_writing()
        return 0
    except OSError as exc:
        if not _is_of_output(exc):
            raise
        _stop_writing()
        return _not_written(f"{exc.strerror}; what the command had done by then stays done")


def _run(arguments: list[str]) -> int:
    import click

    from dibs.cli.commands import dibs
    from dibs.errors import DibsError
    from dibs.text import printable

    try:
        code = dibs.main(arguments, prog_name="dibs", standalone_mode=False)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as exc:
        with suppress(OSError):
            exc.show()
        return exc.exit_code if isinstance(exc, click.UsageError) else EXIT_MISTAKE
    except DibsError as exc:
        with suppress(OSError):
            click.echo(f"dibs: {printable(str(exc))}", err=True)
        return EXIT_MISTAKE
    _flush()
    return code if isinstance(code, int) else 0


def _flush() -> None:
    sys.stdout.flush()


def _is_of_output(exc: OSError) -> bool:
    """Whether a write of our output raised it: all that a command prints goes through `echo`."""
    import traceback

    import click

    *_, (frame, _) = traceback.walk_tb(exc.__traceback__)
    return frame.f_code in (click.echo.__code__, _flush.__code__)


def _not_written(why: str, *, err: bool = True) -> int:
    import click

    with suppress(OSError):
        click.echo(f"dibs: the output cannot be written: {why}", err=err)
    return EXIT_MISTAKE


def _stop_writing() -> None:
    """Let the interpreter's last flush go nowhere: the output has no reader, or no room."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
