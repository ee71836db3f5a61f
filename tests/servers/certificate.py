"""A certificate for `localhost` that nobody has signed but itself, for servers that speak TLS.

Owns: how it is made.
"""

import os
import pwd
import subprocess
from pathlib import Path

from msgspec import Struct


class Certificate(Struct, frozen=True):
    """Where it lies; it is its own authority."""

    path: Path
    key: Path


def make_certificate(folder: Path, user: str | None = None) -> Certificate:
    """Make one that is good for two days, whose key `user` can read and nobody else."""
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ["-nodes", "-days", "2", "-keyout", str(made.key), "-out", str(made.path)]
    subprocess.run([*request, *files, *subject], check=True, capture_output=True)
    made.path.chmod(0o644)
    if user:
        os.chown(made.key, pwd.getpwnam(user).pw_uid, -1)
    return made
