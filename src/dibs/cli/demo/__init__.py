"""`dibs demo`: real jobs, real workers, faults, and an audit of the files and the databases.

Owns: the command. Must never: import Pillow or rich before it is known that they are there.
Called by: `dibs.cli.commands`.
"""

import signal
from importlib.util import find_spec
from pathlib import Path

import click

from dibs.cli.commands import examples
from dibs.errors import UserError

DEFAULT_PHOTOS = 10_000


@click.command(
    short_help="Watch 12,000 jobs survive what befalls their workers.",
    epilog=examples(
        "dibs demo                     10,000 photos, 1,000 cards, 50 slots",
        "dibs demo --photos 500        a short one",
        "dibs demo --dir ~/Pictures    your own photos; they are only read",
    ),
)
@click.option(
    "--photos",
    type=click.IntRange(10, 1_000_000),
    help=f"How many; a tenth as many cards, 50 at least.  [default: {DEFAULT_PHOTOS:,}, or all of"
    " --dir]",
)
@click.option(
    "--workers",
    type=click.IntRange(3, 1_000),
    default=50,
    show_default=True,
    help="How many jobs run at a time, over three workers.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of your own photos. They are read, never changed.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the thumbnails, the shop, the queue and the workers' logs."
)
def command(*, photos: int | None, workers: int, folder: Path | None, keep: bool) -> int:
    """Resize photos and charge cards with three workers, and see what faults do to the jobs.

    One worker is killed in the middle of its jobs. One is stopped before it could say that its jobs
    are done, for so long that others do them, and goes on. Of one, acknowledgements are lost on the
    way. Then the files and the databases are audited.

    Ends with 0 if every photo has one correct thumbnail and every card was charged once through
    `dibs.once`, while the naive way has charged some twice; else with 1.
    """
    if find_spec("PIL") is None:
        raise UserError(
            "the demo makes and resizes real photos, and Pillow is not installed: install it with"
            " `pip install 'dibs[demo]'`"
        )
    from dibs.cli.demo.story import tell

    signal.signal(signal.SIGTERM, _interrupt)
    count = DEFAULT_PHOTOS if photos is None and folder is None else photos
    return tell(count, workers, folder, keep=keep)


def _interrupt(*_: object) -> None:
    """End as on Ctrl-C: the workers are sessions of their own and must be ended by name."""
    raise KeyboardInterrupt
