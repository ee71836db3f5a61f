"""`dibs jobs`, and what `dibs queues` does to one: what they print, move and refuse."""

import json
import subprocess
from collections.abc import Callable
from uuid import UUID

import pytest

from dibs.brokers.contract import Applied, Broker
from dibs.brokers.url import open_broker
from dibs.clock import SystemClock
from dibs.message import Ack, Release
from dibs.states import State
from dibs.testing.making import OUTCOMES, claim_all, claim_one, message, messages, publish, settle
from tests.servers.sqs import KEYS, keys_set, serving
from tests.servers.sqs_faults import OLD, fronting

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def listed(dibs: Run, *arguments: str) -> list[tuple[str, str]]:
    """Return the states and tasks that `dibs jobs list --json` finds."""
    shown = dibs("jobs", "list", "--json", *arguments)
    assert shown.returncode == 0, shown.stderr
    return [(one["state"], one["task"]) for one in json.loads(shown.stdout)["jobs"]]


def ready_and_paused(dibs: Run, name: str) -> tuple[int, bool]:
    """Return what `dibs queues --json` says of a queue."""
    queues = json.loads(dibs("queues", "--json").stdout)["queues"]
    (found,) = (queue for queue in queues if queue["name"] == name)
    return found["ready"], found["paused"]


@pytest.fixture
def one_of_each(broker: Broker) -> Broker:
    """A broker with a job in each state, its task named after it."""
    publish(broker, message(task="dead"))
    settle(broker, claim_one(broker), OUTCOMES["dead letter"])
    publish(broker, message(task="held"), message(task="later"))
    claim_one(broker)
    settle(broker, claim_one(broker), Release(600_000))
    publish(broker, message("other", task="ready\x1b[31m"))
    return broker


def test_jobs_are_listed_by_state_and_filtered(dibs: Run, one_of_each: Broker) -> None:
    everything = [("ready", "ready\x1b[31m"), ("scheduled", "later"), ("in flight", "held")]
    assert listed(dibs) == everything
    assert listed(dibs, "--state", "in-flight") == [("in flight", "held")]
    assert listed(dibs, "--state", "scheduled", "--queue", "other") == []
    assert listed(dibs, "--queue", "photos") == everything[1:]
    assert listed(dibs, "--task", "held") == [("in flight", "held")]
    assert listed(dibs, "--limit", "2") == everything[:2]
    assert one_of_each.inspector().queues()


def test_the_list_for_people_is_aligned_and_steers_no_terminal(
    dibs: Run, one_of_each: Broker
) -> None:
    shown = dibs("jobs", "list").stdout
    heading, ready, scheduled, held = shown.splitlines()
    assert heading.split() == ["id", "task", "queue", "state", "when", "attempt"]
    assert "ready\\x1b[31m" in ready
    assert " ago" in ready
    assert "due in 10 min" in scheduled
    assert "lease ends in " in held
    assert "\x1b" not in shown
    assert "... and more: the first 1 are shown" in dibs("jobs", "list", "--limit", "1").stdout
    assert one_of_each.inspector().queues()


def test_a_job_is_shown_in_any_state(dibs: Run, one_of_each: Broker) -> None:
    views = [
        *one_of_each.inspector().dead(),
        *one_of_each.inspector().jobs("other", State.READY).jobs,
    ]
    for view, state in zip(views, ("dead", "ready"), strict=True):
        id = str(UUID(bytes=view.message.id))
        assert f"state       {state}, " in dibs("jobs", "show", id).stdout
        assert json.loads(dibs("jobs", "show", id, "--json").stdout)["state"] == state


def test_of_a_job_that_is_done_its_result_is_shown_while_it_is_kept(
    dibs: Run, broker: Broker
) -> None:
    publish(broker, message(), message())
    kept, unkept = claim_one(broker), claim_one(broker)
    settle(broker, kept, Ack('["\x9b31m"]'.encode(), 60_000))
    settle(broker, unkept, Ack())
    id = str(UUID(bytes=kept.message.id))
    shown = dibs("jobs", "show", id)
    assert (shown.returncode, shown.stdout) == (
        0,
        f'id          {id}\nstate       done\nresult      ["\\x9b31m"]\n',
    )
    data = json.loads(dibs("jobs", "show", id, "--json").stdout)
    assert data == {"id": id, "state": "done", "result": ["\x9b31m"], "payload": None}
    gone = dibs("jobs", "show", str(UUID(bytes=unkept.message.id)))
    assert gone.returncode == 2
    assert "it is done, or never was" in gone.stderr


def test_no_jobs_is_said(dibs: Run, broker: Broker) -> None:
    broker.declare(["photos"])
    assert dibs("jobs", "list").stdout.startswith("no jobs in /")
    assert dibs("jobs", "list", "--state", "ready").stdout.endswith("are like that\n")
    assert listed(dibs) == []


def test_a_paused_queue_is_left_alone_until_it_is_resumed(dibs: Run) -> None:
    dibs("enqueue", "shop:app", "add", "--arg", "a=1")
    paused = dibs("queues", "pause", "default", "shop:app")
    assert (paused.returncode, paused.stdout) == (
        0,
        "default: paused: its jobs wait until it is resumed\n",
    )
    drained = dibs("worker", "shop:app", "--drain")
    assert drained.returncode == 0
    resume = "`dibs queues resume default` ends that"
    assert f"\nwarning: queue default is paused, and its jobs wait: {resume}\n" in drained.stderr
    left, last = (line[9:] for line in drained.stderr.splitlines()[-2:])
    assert left == f"1 job left in queue default, which is paused: {resume}"
    assert last == "stopped; no job was settled"
    assert dibs("queues").stdout.splitlines()[1].endswith("  paused")
    assert ready_and_paused(dibs, "default") == (1, True)
    resumed = dibs("queues", "resume", "default", "--json")
    assert json.loads(resumed.stdout) == {"queue": "default", "paused": False}
    drained = dibs("worker", "shop:app", "--drain")
    assert drained.returncode == 0
    assert "is paused" not in drained.stderr
    assert ready_and_paused(dibs, "default") == (0, False)


def test_a_purge_removes_what_waits_and_nothing_else(dibs: Run, broker: Broker) -> None:
    publish(broker, *messages(3), message("other"))
    held = claim_one(broker)
    refused = dibs("queues", "purge", "photos")
    assert refused.returncode == 2
    assert "Remove 2 jobs of photos for good? There is no terminal" in refused.stderr
    dry = dibs("queues", "purge", "photos", "--dry-run")
    assert dry.stdout == "photos: 2 jobs would be removed\n"
    told = json.loads(dibs("queues", "purge", "photos", "--yes", "--json").stdout)
    assert told == {"queue": "photos", "waiting": 2, "purged": 2, "dry_run": False}
    assert dibs("queues", "purge", "photos").stdout == "photos: 0 jobs removed\n"
    assert settle(broker, held, Ack()) == Applied()
    assert len(claim_all(broker, "photos", "other")) == 1


def test_a_purge_asks_and_looks_itself_where_counts_are_only_about_right(dibs: Run) -> None:
    """SQS said that there are none, up to a minute ago."""
    with keys_set(), serving() as server, fronting(server.port) as front:
        url = f"sqs://eu-west-1/cli-?endpoint={front.endpoint}"
        broker = open_broker(url, clock=SystemClock(), worker_id=b"")
        broker.declare(["photos"])
        broker.inspector().queues()
        publish(broker, *messages(3))

        def purge(*options: str) -> "subprocess.CompletedProcess[str]":
            front.spoil("GetQueueAttributes", *[OLD] * 4)
            return dibs("queues", "purge", "photos", "--url", url, *options, **KEYS)

        assert "Remove about 0 jobs of photos for good? There is no terminal" in purge().stderr
        assert purge("--dry-run").stdout == "photos: about 0 jobs would be removed\n"
        assert purge("--yes").stdout == "photos: 3 jobs removed\n"
        broker.close()


def test_a_queue_and_an_app_may_be_named_in_either_order(dibs: Run, broker: Broker) -> None:
    publish(broker, message())
    for verb, *more in (["pause"], ["resume"], ["purge", "--yes"]):
        for words in (["shop:app", "photos"], ["photos", "shop:app"]):
            done = dibs("queues", verb, *words, *more)
            assert (done.returncode, done.stdout[:8]) == (0, "photos: "), done.stderr


def test_a_verb_of_queues_may_be_left_out(dibs: Run, broker: Broker) -> None:
    publish(broker, message())
    for arguments in ([], ["list"], ["--url", "sqlite:///dibs.db"], ["shop:app"]):
        assert "photos" in dibs("queues", *arguments).stdout, arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["queues", "pause", "photo"], "there is no queue 'photo'; did you mean `photos`?"),
        (["queues", "resume", "\x1b[31m"], "there is no queue '\\x1b[31m'"),
        (["queues", "purge", "nope", "--yes"], "there is no queue 'nope'"),
        (["queues", "--url", "sqlite:////no/such/q.db"], "there is no folder /no/such"),
        (["queues", "pause"], "Missing argument 'QUEUE'"),
        (["queues", "paus", "photos"], "neither a job's id nor an app"),
        (["queues", "pause", "photos", "nope:app"], "there is no module 'nope' here"),
        *(
            ([*command, str(UUID(int=1))], "this command means no single job: leave out the id")
            for command in (
                ["queues", "list"],
                ["queues", "pause", "photos"],
                ["queues", "resume", "photos"],
                ["queues", "purge", "photos", "--yes"],
                ["doctor"],
            )
        ),
        (["jobs", "list", "--queue", "photo"], "did you mean `photos`?"),
        (["jobs", "list", "--state", "dead"], "'dead' is not one of"),
        (["jobs", "list", str(UUID(int=1))], "`dibs jobs show ID`"),
        (["jobs", "show", str(UUID(int=1))], "it is done, or never was"),
        (["jobs", "show", "shop:app"], "name one job by its id"),
        (["jobs", "show", "shop:app", "bogus"], "'bogus' is neither a job's id nor an app"),
        (["jobs", "show", "bogus", "shop:app"], "'bogus' is neither a job's id nor an app"),
        (["jobs", "show", "shop:app", "b:c"], "'shop:app' and 'b:c' are two apps: name one"),
        (["queues", "purge", "shop:app"], "'shop:app' is an app: name a queue, as in `photos "),
        (["queues", "purge", "shop:app", "b:c"], "'shop:app' is an app: name a queue"),
        (["queues", "purge", "shop:app", "photo", "--yes"], "did you mean `photos`?"),
        (["jobs", "lst"], "there is no command `lst`; did you mean `list`?"),
        (["jobs", "shop:app"], "did you mean `dibs jobs list shop:app`?"),
        (["dlq", "shop:app"], "did you mean `dibs dlq list shop:app`?"),
    ],
)
def test_a_mistake_is_one_clear_line(
    dibs: Run, broker: Broker, arguments: list[str], text: str
) -> None:
    publish(broker, message())
    shown = dibs(*arguments)
    assert shown.returncode == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not shown.stdout
    assert len(claim_all(broker)) == 1, "nothing was changed"
