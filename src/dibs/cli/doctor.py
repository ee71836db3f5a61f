"""`dibs doctor`: what a live broker is set to, and what it does with a message.

Must never: touch a user's queue, or call something good that was not tried or read.
Called by: `dibs.cli.commands`.
"""

import contextlib
from collections.abc import Iterator, Sequence

import click
import msgspec

from dibs.brokers.contract import Broker, Finding
from dibs.cli.banner import place
from dibs.cli.broker import opened as open_another
from dibs.cli.broker import opened_to_look
from dibs.cli.commands import examples
from dibs.cli.probe import QUEUE, probe
from dibs.cli.selecting import is_named, json_option, place_without_ids, url_option
from dibs.cli.tables import aligned
from dibs.clock import SystemClock
from dibs.text import one_line

EXIT_BAD = 1
MARKS = {"good": "ok", "note": "note", "bad": "BAD"}


@click.command(
    short_help="Try a broker out, and read its settings.",
    epilog=examples(
        "dibs doctor photos:app",
        "dibs doctor --url redis://localhost/0",
        "dibs doctor --json | jq '.findings[] | select(.verdict != \"good\")'",
    ),
)
@click.argument("words", nargs=-1, metavar="[APP]")
@json_option
@url_option
def command(words: tuple[str, ...], in_json: bool, url: str | None) -> int:
    """Try the broker of APP, or of `--url`, or of DIBS_URL, and say what it keeps.

    One message goes through a queue of its own, `dibs-doctor`, on two connections: is it confirmed,
    is it hidden while it is leased, does it come back, is an old lease refused? Then come the
    settings that the promises rest on. It ends with 1 if something is bad.
    """
    found = place_without_ids(words, url)
    with contextlib.closing(opened_to_look(found, named=is_named(words, url))) as first:
        with contextlib.closing(open_another(found)) as second:
            findings = [*_facts(first), *probe(first, second, SystemClock())]
        findings += first.inspector().findings()
        where = place(first)
    if in_json:
        click.echo(msgspec.json.encode({"broker": where, "findings": findings}))
    else:
        click.echo(_report(where, findings), nl=False)
    return EXIT_BAD if any(finding.verdict == "bad" for finding in findings) else 0


def _facts(broker: Broker) -> Iterator[Finding]:
    capabilities = broker.capabilities
    level = f"{capabilities.durability}, {capabilities.durability_note}"
    yield Finding("durability", level, "good" if capabilities.durability != "D0" else "note")


def _report(where: str, findings: Sequence[Finding]) -> str:
    rows = [(MARKS[f.verdict], f.what, one_line(f.found)) for f in findings]
    text = f"{where}, tried through queue {QUEUE}:\n{aligned(rows)}"
    wrong = [finding for finding in findings if finding.advice]
    return text + "".join(f"{one.what}: {one_line(one.advice, 500)}\n" for one in wrong)
