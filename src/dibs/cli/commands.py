"""The table of commands.

Owns: which commands there are, and that only the one that is asked for is imported.
Must never: import a command at the top.
Called by: `dibs.cli.main`.
"""

from importlib import import_module
from typing import NoReturn

import click

from dibs import __version__
from dibs.text import one_line

COMMANDS = ("worker", "queues", "jobs", "dlq", "enqueue", "ledger", "doctor", "migrate", "demo")
"""Each is `command` in the module of its name, in the order of `dibs --help`."""


class Commands(click.Group):
    """The group of all commands, loaded one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"dibs.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which was meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            refuse(ctx, name, COMMANDS)
        return super().resolve_command(ctx, args)


class Group(click.Group):
    """A command of several verbs, which says what was meant by one that it does not know."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            if ":" in args[0] and "list" in self.commands:
                likely = f"{ctx.command_path} list {one_line(args[0])}"
                ctx.fail(f"there is no command `{one_line(args[0])}`; did you mean `{likely}`?")
            refuse(ctx, args[0], tuple(self.commands))
        return super().resolve_command(ctx, args)


def refuse(ctx: click.Context, name: str, known: tuple[str, ...]) -> NoReturn:
    """End in saying that there is no such command, and which was meant."""
    from dibs.spelling import did_you_mean

    ctx.fail(f"there is no command `{one_line(name)}`{did_you_mean(name, known)}")


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "dibs worker photos:app        run the jobs of `app` in photos.py",
        "dibs queues photos:app        see what waits",
        "dibs dlq list photos:app      see what was given up, and why",
        "dibs demo                     watch 12,000 jobs survive what befalls their workers",
        "dibs COMMAND --help           more, with examples",
    ),
)
@click.version_option(__version__, message="dibs %(version)s")
def dibs() -> None:
    """A task queue: one job, one worker at a time, until it is acknowledged."""
