"""The fraud check, with a real HTTP service: it is limited, down, silent, and asked twice."""

import json
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.examples.stage import Stage
from tests.worker.workers import Started

QUEUE = "checks.db"


class FraudService(ThreadingHTTPServer):
    """A service that sells checks, each `Idempotency-Key` once, and so many of them in a second.

    `kills` is the worker to kill when the next check is sold and not yet answered.
    """

    # By default 5 connections wait to be accepted. Of those beyond that the kernel keeps a SYN
    # cookie only, and resets one whose second segment comes before it is accepted: another fault.
    request_queue_size = 128

    def __init__(self, port: int = 0, per_second: int = 1_000) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.per_second = per_second
        self.sold: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.refused = 0
        self.kills: Started | None = None
        self.lock = threading.Lock()
        self.window = (0.0, 0)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def is_over_the_limit(self) -> bool:
        """Count a request; say whether it is one too many in this second."""
        with self.lock:
            began, count = self.window
            if time.monotonic() >= began + 1:
                began, count = time.monotonic(), 0
            self.window = began, count + 1
            self.refused += count >= self.per_second
            return count >= self.per_second

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: FraudService

    def do_POST(self) -> None:
        """Sell a check."""
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.is_over_the_limit():
            return self.answer(429, {}, {"Retry-After": "1"})
        key = self.headers["Idempotency-Key"]
        with self.server.lock:
            self.server.asked[question["order"]] += 1
            self.server.sold[key] = question["order"]
            killed, self.server.kills = self.server.kills, None
        if killed:
            return killed.send_all(signal.SIGKILL)
        return self.answer(200, {"risk": float(question["amount"]) / 1_000}, {})

    def answer(self, status: int, body: object, headers: dict[str, str]) -> None:
        """Send JSON."""
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FraudService]:
    """A service, of which the example's worker knows."""
    made = FraudService()
    monkeypatch.setenv("FRAUD_URL", made.url)
    yield made
    made.close()


def risks(stage: Stage) -> list[tuple[str, float]]:
    """Return what the shop knows of its orders."""
    with closing(sqlite3.connect(stage.folder / "orders.db")) as database:
        return database.execute("select id, risk from risks order by id").fetchall()


def enqueue(stage: Stage, orders: int, **options: object) -> None:
    """Enqueue checks of orders of 100.50."""
    stage.run(
        "-c",
        f"""
from decimal import Decimal
from fraud_check import app, check
some = check.options(**{options})
app.enqueue_many(some.bind(f"order-{{n}}", Decimal("100.50")) for n in range({orders}))
""",
    )


def test_a_limit_is_waited_for_and_costs_no_attempt(stage: Stage, service: FraudService) -> None:
    service.per_second = 6
    enqueue(stage, 15)
    worker = stage.worker("fraud_check")
    stage.until_done(QUEUE)
    assert risks(stage) == sorted((f"order-{n}", 0.1005) for n in range(15))
    assert service.refused > 0
    assert set(service.asked.values()) == {1}
    assert "failed" not in worker.text


def test_a_service_that_is_down_is_asked_again_when_it_is_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    monkeypatch.setenv("FRAUD_URL", f"http://127.0.0.1:{port}")
    stage.run("fraud_check.py", "order-1", "250")
    worker = stage.worker("fraud_check")
    worker.line(r"failed \(attempt 1\): retry in")
    service = FraudService(port)
    try:
        stage.until_done(QUEUE)
    finally:
        service.close()
    assert risks(stage) == [("order-1", 0.25)]


def test_a_service_that_does_not_answer_holds_no_slot_for_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, and never accepts
        monkeypatch.setenv("FRAUD_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        stage.run("fraud_check.py", "order-1", "250")
        worker = stage.worker("fraud_check")
        worker.line(r"ReadTimeout")
        worker.line(r"failed \(attempt 1\): retry in")


def test_a_check_that_is_delivered_twice_is_bought_once(
    stage: Stage, service: FraudService
) -> None:
    enqueue(stage, 1, visibility_timeout=1)
    service.kills = worker = stage.worker("fraud_check")
    assert worker.end() == -signal.SIGKILL
    stage.worker("fraud_check")
    stage.until_done(QUEUE)
    assert service.asked == {"order-0": 2}, "it was delivered twice"
    assert len(service.sold) == 1
    assert risks(stage) == [("order-0", 0.1005)]
