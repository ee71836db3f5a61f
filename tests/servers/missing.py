"""What a test does that needs a server which is not installed.

Called by: the fixtures that start servers.
"""

import os
from typing import NoReturn

import pytest


def not_installed(server: str, package: str) -> NoReturn:
    """Skip the test and say why; where CI=true nothing may be left out, so fail it."""
    text = f"{server} is not installed: apt install {package} (no service needed)"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)
