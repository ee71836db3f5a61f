"""`dibs doctor` on a real RabbitMQ server: what it tried, what it read, and who is not let in."""

import json
import subprocess
import sys

from tests.cli.test_doctor import KEPT
from tests.servers.rabbitmq import Server

READ = ["RabbitMQ", "cluster", "queues", "connection", "consumer_timeout", "policies"]
UNASKED = {"consumer_timeout", "policies"}
"""What AMQP cannot ask for."""


def doctor(url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dibs", "doctor", "--json", "--url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_is_tried_and_its_settings_are_read(url: str) -> None:
    done = doctor(url)
    assert done.returncode == 0, done.stderr
    findings = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
    assert list(findings) == ["durability", *KEPT, *READ]
    assert {what for what, one in findings.items() if one["verdict"] != "good"} == UNASKED
    assert {findings[what]["verdict"] for what in UNASKED} == {"note"}
    assert findings["stale ack"]["found"] == "refused by dibs, which never sends it"


def test_who_is_not_let_in_reads_what_the_server_said(server: Server) -> None:
    done = doctor(f"amqp://guest:hunter2@127.0.0.1:{server.port}/")
    assert done.returncode == 2
    assert "ACCESS_REFUSED" in done.stderr
    assert "check user and password" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
