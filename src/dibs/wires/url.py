"""What the URLs of servers have in common.

Must never: put a password into a text.
Called by: the addresses of Redis and RabbitMQ. libpq reads its URLs by itself.
"""

from urllib.parse import SplitResult, urlsplit

ESCAPED = "with %23, %2F, %3F and %40 for a #, /, ? and @ in a name or password"


def split(url: str) -> SplitResult:
    """Split a URL.

    Raises:
        ValueError: it is none; or its password has a / ? or # that was not escaped, and what
            follows that would be read, and shown, as something else.
    """
    parts = urlsplit(url)
    if "@" in url.partition("://")[2].removeprefix(parts.netloc):
        raise ValueError
    return parts
