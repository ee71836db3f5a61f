"""What a queue file must be, and what is said of a file that is not one."""

import errno
import gc
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from dibs.brokers.sqlite import SqliteBroker, open_sqlite
from dibs.errors import (
    BrokerBusy,
    BrokerError,
    BrokerFull,
    BrokerRefused,
    BrokerUnavailable,
    SchemaTooNew,
)
from dibs.local import disk
from dibs.testing import ManualClock
from dibs.testing.making import claim, claim_one, message, publish
from tests.unit.sqlite.conftest import Open


def refused(path: Path, kind: type[BrokerError], word: str) -> None:
    with pytest.raises(kind, match=word):
        open_sqlite(path, clock=ManualClock(), worker_id=b"w")


def test_only_the_first_to_open_it_created_it(open_broker: Open) -> None:
    assert [open_broker().created, open_broker().created] == [True, False]


def test_it_is_set_to_what_the_guarantees_rest_on(broker: SqliteBroker) -> None:
    pragma = broker._db.connection.pragma
    names = ("journal_mode", "synchronous", "page_size", "auto_vacuum", "mmap_size")
    assert [pragma(name) for name in names] == ["wal", 2, 4096, 2, 0]
    broker.declare(["photos"])


def test_a_setting_that_is_gone_is_found_by_declare(broker: SqliteBroker) -> None:
    broker._db.connection.pragma("synchronous", 1)
    with pytest.raises(BrokerRefused, match="synchronous is 1"):
        broker.declare([])


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_nobody_else_may_read_it_whatever_the_umask(
    open_broker: Open, path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        broker = open_broker()
        publish(broker, message())
        broker.bell()
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert modes.pop("photos.db-bells") == 0o700
    assert set(modes.values()) == {0o600}


def modes(path: Path) -> dict[str, int]:
    names = (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")))
    return {name.name: stat.S_IMODE(name.stat().st_mode) for name in names}


def test_a_file_that_others_could_read_is_made_private_when_it_is_opened(
    open_broker: Open, path: Path
) -> None:
    """It was made by another program, as a restored backup is, or with its log by a copy."""
    first = open_broker()
    publish(first, message())
    for name in modes(path):
        path.with_name(name).chmod(0o664)
    second = open_broker()
    assert modes(path) == dict.fromkeys(modes(path), 0o600)
    first.close()
    second.close()
    path.chmod(0o644)
    publish(open_broker(), message())
    assert modes(path) == dict.fromkeys(modes(path), 0o600)


@pytest.mark.parametrize("mode", [0o200, 0o400, 0o600, 0o755])
def test_no_right_is_ever_given(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    disk.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o600


def test_a_file_of_somebody_else_or_of_another_program_keeps_its_mode(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE theirs(a)")
    other.close()
    path.chmod(0o644)
    refused(path, BrokerRefused, "another program's database")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    disk.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def missing_folder(path: Path) -> Path:
    return path.parent / "missing" / path.name


def folder_that_is_a_file(path: Path) -> Path:
    path.touch()
    return path / "a.db"


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def link_into_nothing(path: Path) -> Path:
    path.symlink_to(path.parent / "missing" / "real.db")
    return path


def link_to_itself(path: Path) -> Path:
    path.symlink_to(path)
    return path


def beside(path: Path, suffix: str) -> Path:
    path.with_name(path.name + suffix).mkdir()
    return path


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing folder": (missing_folder, r"there is no folder \S+/missing: make it first"),
    "a file as folder": (folder_that_is_a_file, r"\S+ is not a folder: name a file in one"),
    "folder": (folder, r"\S+ is a folder: name a file in it"),
    "pipe": (pipe, r"\S+ is a device or a pipe: name a file"),
    "dangling link": (
        link_into_nothing,
        r"\S+ is a symbolic link, and there is no folder \S+: make it first, or mend the link",
    ),
    "link to itself": (link_to_itself, r"\S+: it is a symbolic link .*: remove it"),
    "long name": (lambda path: path.with_name("x" * 300), r"\S+: its name is too long: choose .*"),
    "proc": (lambda _: Path("/proc/x.db"), r".*/proc.*: .*"),
    "lock": (lambda path: beside(path, "-lock"), r"\S+-lock: it is a folder .*: remove it"),
    "log": (
        lambda path: beside(path, "-wal"),
        r"\S+: disk I/O .*directory.*: check the disk, and .*",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_cannot_be_is_named_once_with_the_way_out(path: Path, name: str) -> None:
    make, text = PLACES[name]
    asked = make(path)
    before = sorted(path.parent.iterdir())
    with pytest.raises(BrokerUnavailable) as caught:
        open_sqlite(asked, clock=ManualClock(), worker_id=b"w")
    said = str(caught.value)
    assert re.fullmatch(text, said), said
    named = asked if str(asked) in said else asked.parent
    assert said.count(str(named)) == 1
    assert "\n" not in said
    assert "Errno" not in said
    if name not in ("lock", "log"):
        assert sorted(path.parent.iterdir()) == before, "nothing was made"


def other_settings(path: Path, _: pytest.MonkeyPatch) -> None:
    other = apsw.Connection(str(path))
    other.pragma("journal_mode", "delete")
    other.close()


def no_turn(path: Path, _: pytest.MonkeyPatch) -> None:
    turn = path.with_name("photos.db-turn")
    turn.unlink()
    turn.mkdir()


def somebody_elses_lock(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", forbidden)


def locked_by_another_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """At the first write: the machine was started anew."""
    monkeypatch.setattr("dibs.local.database.BUSY_SHARE", 0.001)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    return other


Refusal = tuple[Callable[[Path, pytest.MonkeyPatch], object], type[BrokerError]]


@pytest.mark.parametrize(
    "refusal",
    [
        (other_settings, BrokerRefused),
        (no_turn, BrokerUnavailable),
        (somebody_elses_lock, BrokerUnavailable),
        (locked_by_another_program, BrokerBusy),
    ],
)
def test_a_file_that_is_refused_leaves_nothing_open(
    open_broker: Open,
    path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Refusal,
) -> None:
    spoil, kind = refusal
    open_broker().close()
    clock.reboot()
    held = spoil(path, monkeypatch)
    gc.collect()  # what an earlier test left in a cycle would be closed in between
    counts: list[int] = []
    for _ in range(4):
        with pytest.raises(kind):
            open_broker()
        counts.append(len(os.listdir("/dev/fd")))
    # SQLite itself keeps the first of a file that another connection has locked, for the next.
    assert counts == counts[:1] * 4
    del held


def test_a_link_to_a_file_that_is_not_there_yet_makes_it_where_it_leads(path: Path) -> None:
    real = path.with_name("real.db")
    path.symlink_to(real)
    broker = open_sqlite(path, clock=ManualClock(), worker_id=b"w")
    assert broker.url == f"sqlite:///{real}"
    assert real.exists()
    broker.close()


def test_a_read_only_disk_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID)
    monkeypatch.setattr(os, "statvfs", lambda _: flags)
    refused(path, BrokerUnavailable, "photos.db is on a read-only disk: name a file on another")


def test_a_disk_without_room_for_the_file_is_full(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(path: Path, flags: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{path}", flags)

    monkeypatch.setattr(disk, "open_private", no_room)
    refused(path, BrokerFull, "photos.db: no room left on the disk")


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("To whom it may concern: " * 100)
    refused(path, BrokerRefused, "not a queue file")
    assert [entry.name for entry in path.parent.iterdir()] == ["photos.db"]


@pytest.mark.parametrize("owner", [0, 252006675])
def test_another_programs_database_is_refused_and_left_alone(path: Path, owner: int) -> None:
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE theirs(a)")
        other.pragma("application_id", owner)
    other.close()
    before = path.read_bytes()
    refused(path, BrokerRefused, "another program's database")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["photos.db"]


def test_a_newer_schema_is_refused_and_left_alone(broker: SqliteBroker, path: Path) -> None:
    broker._db.connection.pragma("user_version", 4)
    broker.close()
    before = path.read_bytes()
    refused(path, SchemaTooNew, "schema 4.*upgrade dibs")
    assert path.read_bytes() == before


def test_a_schema_of_before_the_first_release_is_refused_and_left_alone(
    broker: SqliteBroker, path: Path
) -> None:
    broker._db.connection.pragma("user_version", 2)
    broker.close()
    before = path.read_bytes()
    refused(path, BrokerRefused, "schema 2.*drain it with that one")
    assert path.read_bytes() == before


def test_a_sqlite_that_corrupts_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_051_002)
    refused(path, BrokerRefused, "can corrupt")


def test_a_network_disk_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "file_system", lambda _: "nfs4")
    refused(path, BrokerRefused, "network disk .nfs4")


def test_the_file_system_is_looked_up_by_device(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        "24 1 0:999 / /a\\040b rw shared:1 - nfs4 host:/a rw\n"
        f"25 1 {number} / /there rw shared:1 master:2 - cifs //host/there rw\n"
    )
    assert disk.file_system(tmp_path, mounts) == "cifs"
    assert disk.file_system(tmp_path, tmp_path / "missing") == ""


@pytest.mark.parametrize("suffix", ["-lock", "-turn", "-board", "-reserve"])
def test_a_link_in_the_place_of_a_side_file_is_not_followed(path: Path, suffix: str) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.with_name(path.name + suffix).symlink_to(victim)
    refused(path, BrokerUnavailable, "photos.db")
    assert victim.read_text() == "precious"


def test_two_names_of_one_file_are_one_queue(open_broker: Open, path: Path) -> None:
    broker = open_broker()
    link = path.with_name("link.db")
    link.symlink_to(path)
    other = open_sqlite(link, clock=ManualClock(), worker_id=b"w")
    assert other.url == broker.url
    other.close()


READ_AND_WRITE = "read and write it: change the owner or mode of the queue file and of those beside"
FORBIDDEN = {
    "file": READ_AND_WRITE,
    "file, to write": READ_AND_WRITE,
    "lock": READ_AND_WRITE,
    "folder": "make the files that it needs beside it: change the owner or mode of its folder",
    "folder, to enter": "make the files that it needs beside it: change the owner or mode of its",
    "folder above": "go there: change the owner or mode of the folders above it",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_cannot_be_written_to_is_unavailable(what: str) -> None:
    # Not in tmp_path, which nobody else may enter: a test that runs as root gives it away.
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        path = top / "in" / "photos.db"
        path.parent.mkdir()
        open_sqlite(path, clock=ManualClock(), worker_id=b"w").close()
        lock = path.with_name("photos.db-lock")
        closed = {"file": path, "file, to write": path, "lock": lock, "folder above": top}
        mode = 0o400 if what.endswith("write") else 0o500 if what == "folder" else 0
        said = what_nobody_gets(path, closed.get(what, path.parent), mode)
        top.chmod(0o700)
        path.parent.chmod(0o700)
    assert re.match(rf"BrokerUnavailable: {path}\S*: this user \(uid \d+\) may not ", said), said
    assert FORBIDDEN[what] in said
    assert said.count(str(path)) == 1


def what_nobody_gets(path: Path, closed: Path, mode: int) -> str:
    """Open `path` in a child without privileges, and return what is raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                for name in (path.parent.parent, path.parent, *path.parent.iterdir()):
                    os.chown(name, 65_534, 65_534)
                os.setgroups([])
                os.setuid(65_534)
            closed.chmod(mode)
            open_sqlite(path, clock=ManualClock(), worker_id=b"w")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        answer = said.read()
    os.waitpid(pid, 0)
    return answer


def test_a_lease_of_another_boot_has_run_out(open_broker: Open, clock: ManualClock) -> None:
    broker = open_broker()
    publish(broker, message())
    claim_one(broker)
    assert claim(open_broker()) == []
    clock.reboot()
    assert claim_one(open_broker()).lost == 1


def test_every_error_is_a_broker_error_with_its_cause(broker: SqliteBroker) -> None:
    broker._db.connection.close()
    with pytest.raises(BrokerError) as caught:
        broker.publish([message()])
    assert isinstance(caught.value.__cause__, apsw.Error)


def test_a_closed_broker_says_so(broker: SqliteBroker) -> None:
    broker.close()
    with pytest.raises(BrokerUnavailable, match=r"closed|Closed"):
        broker.publish([message()])
    with pytest.raises(BrokerUnavailable, match=r"closed|Closed"):
        broker.claim(["photos"], 1)
