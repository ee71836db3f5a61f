"""What the docs show of the code, written by the code: `python -m tools.make_docs`.

Owns the text between `<!-- made: NAME -->` and `<!-- end -->` in the pages of docs/: the life
cycle, the brokers' capabilities, the options and their defaults. Must never touch what stands
outside. Called by whoever changes one of these; a test says when that was forgotten.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from dibs.app import App
from dibs.brokers.capabilities import Capabilities
from dibs.brokers.memory import MemoryBroker
from dibs.brokers.postgres import PostgresBroker
from dibs.brokers.rabbitmq import RabbitBroker
from dibs.brokers.redis import RedisBroker
from dibs.brokers.sqlite import SqliteBroker
from dibs.brokers.sqs import SqsBroker
from dibs.delivery import Delivery
from dibs.states import MOVES, State
from tools import ROOT

MADE = re.compile(r"(<!-- made: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
BROKERS = {
    "memory": MemoryBroker.capabilities,
    "SQLite": SqliteBroker.capabilities,
    "Redis": RedisBroker.capabilities,
    "PostgreSQL": PostgresBroker.capabilities,
    "RabbitMQ": RabbitBroker.capabilities,
    "SQS": SqsBroker.capabilities,
}


def life_cycle() -> str:
    """The table of moves, as a Mermaid diagram that can also be read as text."""
    lines = ["```mermaid", "stateDiagram-v2", '    state "in flight" as in_flight']
    lines += [
        f"    {_node(of)} --> {_node(to)}: {event.value}" for (of, event), to in MOVES.items()
    ]
    return "\n".join([*lines, "```"])


def _node(state: State | None) -> str:
    return "[*]" if state is None else state.value.replace(" ", "_")


def capabilities() -> str:
    """What each broker says of itself."""
    values = {name: msgspec.structs.asdict(found) for name, found in BROKERS.items()}
    rows = [
        (f"`{field}`", *(_shown(values[name][field]) for name in BROKERS))
        for field in Capabilities.__struct_fields__
    ]
    return _table(("", *BROKERS), rows)


def options() -> str:
    """Every option of delivery: its default, where it may be given, and what it is."""
    of_task, of_call = _parameters(App.task), _parameters(Delivery.options)
    texts = _descriptions(Delivery.options) | _descriptions(App.task)
    rows = []
    for name in dict.fromkeys([*of_task, *of_call]):
        default = _shown(of_task[name]) if name in of_task else "none"
        where = ["`@app.task`"] * (name in of_task) + ["`.options`"] * (name in of_call)
        rows.append((f"`{name}`", default, ", ".join(where), texts[name]))
    return _table(("option", "default", "given to", "what it is"), rows)


def _parameters(function: Callable[..., object]) -> dict[str, object]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _descriptions(function: Callable[..., object]) -> dict[str, str]:
    """The `Args:` of a docstring, by name."""
    text = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}"
    if value is None or value == ():
        return "none"
    return value if isinstance(value, str) else repr(value)


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


MAKERS: dict[str, Callable[[], str]] = {
    "life cycle": life_cycle,
    "capabilities": capabilities,
    "options": options,
}


def made(page: str) -> str:
    """A page as it should be."""
    return MADE.sub(lambda found: f"{found[1]}{MAKERS[found[2]]()}\n{found[3]}", page)


def outdated(root: Path) -> Iterator[tuple[Path, str]]:
    """The pages that differ from what the code says, and what they should be."""
    for path in sorted(root.glob("docs/**/*.md")):
        page = path.read_text(encoding="utf-8")
        if (wanted := made(page)) != page:
            yield path, wanted


def main() -> int:
    """Write every page anew that is out of date."""
    for path, wanted in outdated(ROOT):
        path.write_text(wanted, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: made anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
