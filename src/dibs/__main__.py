"""`python -m dibs`: the command line, where the `dibs` script is not on the path.

Must never: do anything of its own. Called by: the interpreter.
"""

import sys

from dibs.cli import main

if __name__ == "__main__":
    sys.exit(main())
