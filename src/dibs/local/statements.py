"""SQL by name, from the `.sql` files of a folder.

A file holds statements, each under a line `-- :: name`; other lines of comment are for people.
Called by: `database`, and the tests of query plans.
"""

import re
from pathlib import Path


def load(folder: Path) -> dict[str, str]:
    """Read every statement of the `.sql` files in `folder`."""
    found: dict[str, str] = {}
    for path in folder.glob("*.sql"):
        for part in path.read_text(encoding="utf-8").split("-- :: ")[1:]:
            name, _, text = part.partition("\n")
            found[name] = re.sub(r"^--.*\n?", "", text, flags=re.MULTILINE).strip()
    return found
