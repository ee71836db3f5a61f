"""What commands say of a queue file that is damaged."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dibs.brokers.contract import Broker
from dibs.testing.making import messages, publish

Run = Callable[..., "subprocess.CompletedProcess[str]"]

COMMANDS = {
    "worker": ("worker", "shop:app", "--drain", "-q", "default", "--processes", "1"),
    "queues": ("queues", "shop:app"),
    "jobs": ("jobs", "list", "shop:app"),
    "enqueue": ("enqueue", "shop:app", "add", "--arg", "a=1"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_file_is_one_clear_text(
    folder: Path, broker: Broker, dibs: Run, command: str, how: str
) -> None:
    publish(broker, *messages(500, "default", task="add", args=b'{"a":1}'))
    broker.close()
    file = folder / "dibs.db"
    content = bytearray(file.read_bytes())
    if how == "cut":
        del content[4096 * 3 :]
    else:
        for place in range(4096, len(content), 37):
            content[place] ^= 0xFF
    file.write_bytes(content)
    ended = dibs(*COMMANDS[command])
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"dibs: {file} is damaged (" in ended.stderr
    assert "restore a backup" in ended.stderr
