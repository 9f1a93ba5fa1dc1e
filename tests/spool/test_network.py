"""What a spool does differently where other hosts may share it. $QUEUECTL_PRETEND_HOST says so here; tests/nfs has the
real thing."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from queuectl import actions
from queuectl.core.times import SECOND, unstamp
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.lookout import Lookout, watched
from queuectl.mounts import Mount
from queuectl.settling import Settler
from queuectl.spool import Settlement, Spool
from tests.spool.faults import FailingFs, Fs, every_call
from tests.spool.stage import Stages
from tests.support import leftovers, only, places, settle, settlement, state_of

HOUR = 3600 * SECOND


class CachedFs:
    """A client's cache: a name that was once looked up stays as it was until its directory is opened."""

    def __init__(self) -> None:
        self.cache: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECTORY:
            inside = path.rstrip("/") + "/"
            self.cache = {name: seen for name, seen in self.cache.items() if not name.startswith(inside)}
        return os.open(path, flags, *mode)

    def lstat(self, path: str) -> os.stat_result:
        if path not in self.cache:
            try:
                self.cache[path] = os.lstat(path)
            except FileNotFoundError as error:
                self.cache[path] = error
        if isinstance(self.cache[path], OSError):
            raise self.cache[path]
        return self.cache[path]


class AheadFs:
    """A server whose clock is an hour ahead of ours: it gives the mtimes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def lstat(self, path: str) -> Any:
        found = os.lstat(path)

        class Found:
            st_mode, st_nlink, st_size, st_dev = found.st_mode, found.st_nlink, found.st_size, found.st_dev
            st_mtime_ns, st_ctime_ns = found.st_mtime_ns + HOUR, found.st_ctime_ns + HOUR
            st_mtime = found.st_mtime + 3600

        return Found


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "alpha")


@pytest.mark.usefixtures("pretend")
def test_a_name_that_a_cache_says_is_missing_is_looked_for_anew(tmp_path: Path) -> None:
    """Row 28."""
    Spool(tmp_path, durability="none")
    spool = Spool(tmp_path, durability="none", fs=CachedFs())
    assert spool.ended(["x"]) == {}
    assert not spool.has_ended("x", "completed")
    (tmp_path / "completed" / "x.json").write_text("{}")  # by another host
    assert list(spool.ended(["x"])) == ["x"]
    assert spool.has_ended("x", "completed")


def test_on_a_local_disk_no_directory_is_opened_for_a_look(tmp_path: Path) -> None:
    spool = Spool(tmp_path, durability="none", fs=CachedFs())
    assert not spool.has_ended("x", "completed")
    (tmp_path / "completed" / "x.json").write_text("{}")
    assert not spool.has_ended("x", "completed"), "it was looked for twice"


@pytest.mark.usefixtures("pretend")
def test_a_job_is_enqueued_by_the_clock_of_the_server(tmp_path: Path) -> None:
    spool = Spool(tmp_path, durability="none", fs=AheadFs())
    spool.enqueue("true")
    assert abs(unstamp(only(spool).not_before) - time.time_ns() - HOUR) < 60 * SECOND
    assert os.listdir(tmp_path / ".tmp") == [], "what was made to learn the time is removed"


@pytest.mark.usefixtures("pretend")
def test_a_draft_is_as_old_as_the_server_says(tmp_path: Path) -> None:
    """Else a host whose clock is an hour off would take an id from somebody who is just enqueuing it."""
    spool = Spool(tmp_path, durability="none", fs=AheadFs())
    (tmp_path / ".tmp" / "abcdefghij.1=draft").write_text("{}")
    assert abs(spool.draft_age("abcdefghij.1=draft")) < 60


def test_on_a_local_disk_this_hosts_clock_counts(tmp_path: Path) -> None:
    assert abs(Spool(tmp_path, fs=AheadFs()).clock() - time.time_ns()) < 60 * SECOND


@pytest.mark.usefixtures("pretend")
def test_a_step_of_this_hosts_clock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, durability="none")
    spool.clock()
    with Lease(spool, ROLE_WORKER) as lease:
        right = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: right + HOUR)
        assert abs(lease.now() - right) < 60 * SECOND
        assert abs(spool.clock() - right) < 60 * SECOND


@pytest.mark.usefixtures("pretend")
def test_pruning_goes_by_the_clock_of_the_server(tmp_path: Path) -> None:
    spool = Spool(tmp_path, durability="none", fs=AheadFs())
    (tmp_path / "completed" / "x.json").write_text('{"id": "x", "command": "true"}')
    assert actions.prune(spool, ["completed"], older_than=600.0, keep=None) == [], "it ended just now"


# -- settling ---------------------------------------------------------------------------------------------------------


class NfsFs(Fs):
    """An os that notes what is opened, synced and closed; O_DIRECT is not for every disk that tests run on."""

    def open(self, path: str, flags: int, *mode: int) -> int:
        self.calls.append(("open", (path, flags)))
        return os.open(path, flags & ~os.O_DIRECT, *mode)

    def close(self, fd: int) -> None:
        self.calls.append(("close", (fd,)))
        os.close(fd)

    def named(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def nfs(tmp_path: Path) -> Spool:
    """A spool that takes itself for one on NFS."""
    Spool(tmp_path, durability="none")
    spool = Spool(tmp_path, durability="fsync", fs=NfsFs())
    spool.__dict__["mount"] = Mount("nfs4", frozenset({"vers=4.2"}), "/mnt", "server:/")
    return spool


def test_on_nfs_a_file_is_synced_before_it_is_closed_and_no_directory_is(nfs: Spool) -> None:
    nfs.clock()
    nfs._fs.calls.clear()
    nfs.enqueue("true")
    assert nfs._fs.named() == ["open", "write", "fsync", "close", "rename"]


def test_on_nfs_a_settle_asks_the_server_for_no_more_than_it_must(nfs: Spool) -> None:
    """A record that is created, the fence, the destination, and the spent claim: docs/scaling.md counts them."""
    nfs.enqueue("true")
    with Lease(nfs, ROLE_WORKER) as lease:
        claim = nfs.claim(only(nfs), lease.worker, lease.next())
        assert claim is not None
        one = settlement(nfs, claim, "completed")
        nfs._fs.calls.clear()
        nfs.settle([one], [])
        assert nfs._fs.named() == ["open", "write", "fsync", "close", "rename", "rename", "unlink"]
        assert leftovers(nfs) == []


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("state", ["completed", "dead", "failed", "pending"])
def test_a_settle_is_finished_by_whoever_recovers(stages: Stages, state: str) -> None:
    """The record has its name before it is whole: what is cut off counts for nothing."""

    def run(k: int) -> bool:
        stage = stages(k)
        one = settlement(stage.doomed, stage.claimed(started=True), state)
        finished = stage.play(lambda: stage.doomed.settle([one], stage.spares), k)
        whole = any(stage.spool.read_record(record) is not None for record in stage.recorded)
        ended = state_of(stage.spool, "job1") if places(stage.spool, "job1") else "processing"
        stage.clear_up()
        expected = state if whole else ended if ended != "processing" else "failed"
        assert state_of(stage.spool, "job1") == expected
        return finished

    assert every_call(run) >= 4


@pytest.mark.usefixtures("pretend")
def test_on_a_full_disk_a_record_goes_into_a_spare_and_the_spare_is_made_again(tmp_path: Path) -> None:
    fs = FailingFs()
    spool = Spool(tmp_path, durability="none", fs=fs)
    settler = Settler(spool, lambda: None)
    with Lease(spool, ROLE_WORKER) as lease:
        settler.provide(lease.worker, 1)
        spool.enqueue("true", id="x")
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        fs.arm(1, errno.ENOSPC)
        assert settle(spool, claim, "completed", settler.spares) == Settlement.PUBLISHED
        assert state_of(spool, "x") == "completed"
        fs.heal()
        assert settler.spares == []
        settler.provide(lease.worker, 1)
        assert len(settler.spares) == 1
    settler.close()


def test_a_claim_is_not_recycled_where_another_host_may_have_it_open(nfs: Spool) -> None:
    """Only one kernel knows who has a file open (F_SETLEASE)."""
    spares: list[str] = []
    nfs.enqueue("true", id="x")
    with Lease(nfs, ROLE_WORKER) as lease:
        claim = nfs.claim(only(nfs), lease.worker, lease.next())
        assert claim is not None
        assert settle(nfs, claim, "completed", spares) == Settlement.PUBLISHED
    assert spares == []


# -- looking, but not all the time ------------------------------------------------------------------------------------


def test_heartbeats_of_other_hosts_are_looked_at_ten_times_in_stale_after(
    nfs: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("QUEUECTL_PRETEND_HOST", "beta")
        other = Lease(nfs, ROLE_WORKER)
    census = Census(nfs, 100.0)
    opened = []
    for now in range(0, 40, 2):
        nfs._fs.calls.clear()
        assert [info.alive for info in census.look(float(now))] == [True]
        opened.append(any(str(args[0]).endswith(f"{other.worker}.json") for _, args in nfs._fs.calls))
    assert [2 * number for number, was_opened in enumerate(opened) if was_opened] == [0, 10, 20, 30]
    other.release()
    assert census.look(41.0) == [], "a lease that is gone is not remembered"


@pytest.mark.usefixtures("pretend")
def test_the_free_space_is_asked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    asked = []
    monkeypatch.setattr(os, "statvfs", lambda path, real=os.statvfs: asked.append(path) or real(path))
    begun = time.monotonic()
    for later in (0.0, 0.5, 1.5):
        monkeypatch.setattr(time, "monotonic", lambda later=later: begun + later)
        spool.free()
    assert len(asked) == 2


NFS3 = Mount("nfs", frozenset({"rw", "vers=3", "hard"}), "/mnt", "server:/")


def on(mount: Mount, root: Path) -> Spool:
    spool = Spool(root, durability="none")
    spool.__dict__["mount"] = mount
    return spool


def test_on_nfs_3_a_listing_just_after_a_change_is_in_doubt_until_the_directory_gets_another_time(
    tmp_path: Path
) -> None:
    spool = on(NFS3, tmp_path)
    (tmp_path / "pending" / "a.part").touch()
    now = time.time_ns()
    assert spool.is_in_doubt("pending", now)
    assert not spool.is_in_doubt("pending", now + SECOND), "the last change was long ago"
    spool.renew_listing("pending")
    assert not spool.is_in_doubt("pending", now)


def test_on_nfs_4_and_on_a_local_disk_no_listing_is_in_doubt(tmp_path: Path) -> None:
    (Spool(tmp_path, durability="none"))
    (tmp_path / "pending" / "a.part").touch()
    for mount in (NFS3._replace(type="nfs4", options=frozenset({"vers=4.2"})), NFS3._replace(type="ext4")):
        assert not on(mount, tmp_path).is_in_doubt("pending", time.time_ns())


def test_the_lookout_renews_a_listing_in_doubt_at_the_next_look_and_once(tmp_path: Path) -> None:
    spool = on(NFS3, tmp_path)
    lookout = Lookout(spool, network=True, poll_interval=1.0, wall=time.time_ns, say=lambda *_: None)
    lookout.watch()
    try:
        (tmp_path / "pending" / "a.part").touch()
        times = [(lookout.scan(time.monotonic()), os.stat(tmp_path / "pending").st_mtime_ns)[1] for _ in range(3)]
    finally:
        lookout.wakeup.stop()
    assert times[1] < times[0], "the second look has renewed it"
    assert times[2] == times[1], "and that was enough"


@pytest.mark.parametrize(
    ("since", "poll_interval", "counted"),
    [(1.0, 1.0, 1.0), (600.0, 1.0, 15.0), (60.0, 60.0, 60.0), (600.0, 60.0, 60.0), (600.0, 100.0, 60.0)],
)
def test_time_in_which_nobody_looked_counts_little_against_others(
    since: float, poll_interval: float, counted: float
) -> None:
    """With a `stale-after` of 120 s: of a server's absence an eighth, of a long `poll-interval` all, and never so much
    that one gap is enough."""
    assert watched(since, 120.0, poll_interval) == counted
