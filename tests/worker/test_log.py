"""The log of a worker inside another program: each event a sentence, and no job's arguments."""

import logging
import subprocess
import sys

import pytest

from dibs import events
from dibs.message import Ack, DeadLetter, Error, Lease, Message, Nack
from dibs.worker.log import log_event

SECRET = "card 4111 1111 1111 1111"
ERROR = Error("ValueError", "bad card", "Traceback ...\n  pay()\nValueError: bad card\n")
ID = "00000000-0000-0000-0000-000000000000"


def lease() -> Lease:
    message = Message(
        *(bytes(16), "default", "pay", b'{"card":"%s"}' % SECRET.encode()),
        unique_key=SECRET,
        headers={"authorization": SECRET},
    )
    return Lease(message, 1, 0, 0, 0, 0, receipt=0)


LOGGED: list[tuple[events.Event, int, str]] = [
    (events.Settled(), logging.DEBUG, "settled: nothing"),
    (
        events.Settled(done=1_204, failed=2, late=1),
        logging.DEBUG,
        "settled: 1,204 done, 2 failed, 1 settled late",
    ),
    (events.Holding(1), logging.DEBUG, "1 job held here"),
    (
        events.JobFailed(lease(), ERROR, Nack(2_000, ERROR)),
        logging.ERROR,
        f"pay {ID} failed (attempt 1): retry in 2.0 s (failure 1 of 5)",
    ),
    (
        events.JobFailed(lease(), ERROR, DeadLetter("undecodable", ERROR)),
        logging.ERROR,
        f"pay {ID} failed (attempt 1): dead letter: undecodable",
    ),
    (
        events.LeaseLost(lease(), ran=False),
        logging.ERROR,
        (f"pay {ID}: the lease is lost and the job is another worker's; it had not started here"),
    ),
    (
        events.RunnerDied(7, "signal SIGKILL", 1, 2),
        logging.ERROR,
        (
            "runner process 7 died (signal SIGKILL): 1 running job charged a crash,"
            " 2 queued jobs given back"
        ),
    ),
    (
        events.RunnerCondemned(7, lease()),
        logging.ERROR,
        (
            f"pay {ID} did not end after its timeout of 15 min: runner process 7 takes no more"
            " jobs, and is replaced"
        ),
    ),
    (events.AlreadyDone(2), logging.INFO, "2 jobs not run: done before, by idempotency key"),
    (
        events.RunnerNotStarted("[Errno 11] Resource temporarily unavailable", 0.2),
        logging.ERROR,
        (
            "a runner process cannot be started: [Errno 11] Resource temporarily unavailable;"
            " again in 0.2 s"
        ),
    ),
    (
        events.TaskUnknown("pay", "default"),
        logging.WARNING,
        (
            "queue default has jobs of task pay, which this app lacks: they are given back, for"
            " a worker that has it"
        ),
    ),
    (
        events.TaskSlow("pay", "timeout", 812.5, 900, 1_625),
        logging.WARNING,
        "pay ran for 14 min, near its timeout of 15 min: set timeout=1625 or more",
    ),
    (
        events.BrokerTrouble("BrokerFull", "no room", 0.1),
        logging.ERROR,
        "the broker fails: BrokerFull: no room; trying again",
    ),
    (events.BrokerBack(2.5), logging.INFO, "the broker works again, after 2.5 s"),
    (
        events.Stopping(3, 30),
        logging.INFO,
        "stopping: 3 jobs held here, 30 s to finish; stop again to end at once",
    ),
]


@pytest.mark.parametrize(("event", "level", "sentence"), LOGGED)
def test_each_event_is_a_sentence_without_what_a_job_carries(
    caplog: pytest.LogCaptureFixture, event: events.Event, level: int, sentence: str
) -> None:
    caplog.set_level(logging.DEBUG, "dibs")
    log_event(event)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dibs", level)
    said = record.getMessage()
    assert said.split("\n")[0] == sentence
    assert SECRET not in said


def test_every_kind_of_event_is_in_the_table() -> None:
    assert {type(event) for event, _, _ in LOGGED} == set(events.Event.__args__)


def test_a_failure_brings_its_traceback_in_the_same_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_event(events.JobFailed(lease(), ERROR, Ack()))
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "\n    Traceback ...\n      pay()\n    ValueError: bad card"
    )


def test_a_line_break_in_a_name_or_an_error_forges_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evil = "pay\n2026-01-01 root: all is well\x1b[2J"
    error = Error(evil, evil, "")
    forged = Lease(Message(bytes(16), "default", evil, b""), 1, 0, 0, 0, 0, receipt=0)
    log_event(events.JobFailed(forged, error, Nack(0, error)))
    log_event(events.TaskUnknown(evil, evil))
    log_event(events.BrokerTrouble("BrokerBusy", evil, 1))
    for record in caplog.records:
        first, *rest = record.getMessage().split("\n")
        assert "\x1b" not in record.getMessage()
        assert "all is well" in first
        assert all(line.startswith("    ") for line in rest)


def test_the_log_needs_nothing_of_the_command_line() -> None:
    seen = (
        "import sys, dibs.worker.log;"
        "sys.exit(any(name.startswith(('dibs.cli', 'click')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", seen], check=True)
