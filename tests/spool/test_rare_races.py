"""Rare interleavings that broke a promise once: each is brought about by hand.

It is long because it is a collection."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl import fsck, orphans
from queuectl import recover as recovering
from queuectl import spool as spools
from queuectl.core import job as jobs
from queuectl.core.backoff import Policy
from queuectl.core.names import Record, Waiting
from queuectl.errors import SpoolError
from queuectl.heart import Heart
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.logsize import LogSizes, cut_abandoned
from queuectl.lookout import Lookout
from queuectl.runner import Attempt, Runner
from queuectl.settling import Settler, one_thread
from queuectl.spool import Spool
from queuectl.tree import initialise
from queuectl.wakeup import Wakeup
from queuectl.worker import Worker
from tests.faults.patched import completes, patched
from tests.spool.faults import Fs, LyingFs
from tests.spool.test_network import NFS3
from tests.spool.test_tree import NOBODY, as_user
from tests.support import (
    age,
    body_of,
    die,
    leftovers,
    listing,
    mode,
    needs_root,
    only,
    queuectl,
    recover,
    run_once,
    state_of,
    until,
    worker,
)

STAMP = "20200101T000000.000000Z"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Be this host from now on; others may share the spool."""
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "alpha")
    return lambda name: monkeypatch.setenv("QUEUECTL_PRETEND_HOST", name)


# -- an attempt's end ------------------------------------------------------------------------------------------------


def test_an_outcome_survives_a_log_that_cannot_be_written_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota on NFS shows when the log is closed. The outcome was dropped, and the job ran again."""
    claim = Waiting(STAMP, 0, 0, "job1").claimed_by("w", 1)
    fd = spool.open_log("job1.1.log")
    os.write(fd, b"hello")
    attempt = Attempt(claim, jobs.parse(b'{"command": "true"}'), 1, "job1.1.log", fd)
    runner = Runner(spool, {})
    close = os.close

    def refuse(which: int) -> None:
        close(which)
        if which == fd:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("queuectl.runner.os.close", refuse)
    assert runner.finish_log(attempt) == "job1.1.log"
    assert attempt.log_fd == -1
    runner.close()


def test_an_attempt_whose_end_cannot_be_noted_at_once_is_not_run_again(spool: Spool, tmp_path: Path) -> None:
    program = """
from queuectl.runner import Runner
finish, calls = Runner.finish_log, []
def fail_once(self, attempt):
    calls.append(attempt)
    if len(calls) == 1:
        raise OSError(5, "Input/output error")
    return finish(self, attempt)
Runner.finish_log = fail_once
"""
    with patched(spool, program):
        spool.enqueue(f"echo ran >> {tmp_path}/ran", id="job1")
        completes(spool, "job1")
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_log_whose_size_cannot_be_seen_stops_no_worker(spool: Spool) -> None:
    """ESTALE: it was removed on another host."""
    attempt = Attempt(Waiting(STAMP, 0, 0, "job1").claimed_by("w", 1), jobs.parse(b'{"command": "true"}'), 1, "x", -1)
    LogSizes(spool, lambda *_: None).turn(1e9, [attempt], 1 << 20)


def test_the_fence_reaches_what_has_left_its_jobs_process_group(spool: Spool, tmp_path: Path) -> None:
    """timeout(1) makes a group of its own, setsid(1) a session. It must not be looked for through the spool, which may
    be what hangs."""
    spool.enqueue(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' & wait", id="job1")
    with Lease(spool, ROLE_WORKER) as lease:
        entry = spool.find("job1")
        assert entry is not None
        claim = spool.claim(entry, lease.worker, lease.next())
        assert claim is not None
        job = spool.read_claim(claim)
        assert job is not None
        runner = Runner(spool, dict(os.environ))
        attempt = runner.start(claim, job, None)
        until((tmp_path / "pid").exists, what="it runs")
        pid = int(until((tmp_path / "pid").read_text))
        gone = os.pidfd_open(pid)
        os.rename(spool.root, spool.root + ".away")
        runner.kill_everything()
        orphans.hunt(lease.worker)
        result = until(lambda: os.waitid(os.P_PIDFD, gone, os.WEXITED | os.WNOHANG))  # orphans come to us
        assert result is not None
        assert result.si_status == signal.SIGKILL
        os.rename(spool.root + ".away", spool.root)
        runner.reap(attempt.pidfd)
        runner.close()
        os.close(gone)


# -- a request for a life that has ended -----------------------------------------------------------------------------


def test_a_requeued_job_does_not_meet_the_request_that_ended_it(spool: Spool) -> None:
    from queuectl.actions import requeue

    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="job1")
        run_once(spool, lease, "job1", "dead")
        spool.put_request("job1.cancel")
        assert requeue(spool, "job1")
    assert listing(spool, "workers") == []


def test_a_request_that_another_worker_has_obeyed_buries_no_later_job(spool: Spool) -> None:
    """A worker that saw the request at its last census has not seen that it is gone."""
    program = """
from queuectl.lookout import Lookout
take = Lookout._take_census
def remember(self, *arguments):
    take(self, *arguments)
    self.cancelled.add("job1")
Lookout._take_census = remember
"""
    with patched(spool, program):
        spool.enqueue("true", id="job1")
        completes(spool, "job1")


# -- recovery --------------------------------------------------------------------------------------------------------


class Unreadable(Fs):
    """One file cannot be opened, as another user's, or one on a bad block."""

    def __init__(self, part: str, error: int) -> None:
        super().__init__()
        self.part, self._error = part, error

    def open(self, path: str, flags: int, *args: Any, **more: Any) -> int:
        if self.part in path and flags & 3 == os.O_RDONLY and not flags & os.O_DIRECTORY:
            raise OSError(self._error, os.strerror(self._error), path)
        return os.open(path, flags, *args, **more)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
def test_a_claim_that_cannot_be_read_stops_neither_recovery_nor_workers(tmp_path: Path, error: int) -> None:
    """What is another user's is set aside; what a disk refuses may be there again."""
    fs = Unreadable("processing/" + STAMP + ".p0.a1.bad", error)
    spool = Spool(tmp_path, durability="none", fs=fs)
    lease = Lease(spool, ROLE_WORKER)
    for job_id in ("bad", "good"):
        claim = Waiting(STAMP, 0, 0, job_id).claimed_by(lease.worker, lease.next())
        Path(spool.dir("processing") + claim.name).write_text('{"command": "true"}')
    die(lease)
    cut_abandoned(spool, Census(spool, 100.0), 1 << 20)
    said = recover(spool)
    assert state_of(spool, "good") == "pending"
    if error == errno.EACCES:
        assert [name.endswith(".rejected") for name in listing(spool, "dead")] == [True, False]
        assert any("bad is no job and was set aside" in line for line in said)
    else:
        assert state_of(spool, "bad") == "processing"
        assert listing(spool, "workers") == [f"{lease.worker}.json"], "it says on which host its processes are"
        assert any("job bad cannot be recovered yet: Could not read the job: " in line for line in said)
        fs.part = "nothing"
        recover(spool)
        assert state_of(spool, "bad") in ("pending", "failed")
    assert listing(spool, "workers") == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
def test_a_lease_that_cannot_be_read_stops_nobody_and_is_called_alive(tmp_path: Path, error: int) -> None:
    spool = Spool(tmp_path, durability="none", fs=Unreadable("workers/stranger-1-x", error))
    Path(spool.dir("workers") + "stranger-1-x.json").write_text("{}")
    with Lease(spool, ROLE_WORKER) as lease:
        seen = {info.id: info.alive for info in Census(spool, 0.0, lease.worker).look(1e9)}
        assert seen == {lease.worker: True, "stranger-1-x": True}


class Hiding(Fs):
    """A listing of workers/ from the cache of an NFS 3 client, which lacks one name until the directory changes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = ""

    def listdir(self, path: str) -> list[str]:
        return [name for name in os.listdir(path) if name != self.hidden]

    def utime(self, path: str, **more: Any) -> None:
        os.utime(path, **more)
        self.hidden = ""


def test_a_worker_whose_lease_a_listing_hides_keeps_its_jobs(tmp_path: Path, other: Any) -> None:
    Spool(tmp_path, durability="none")
    other("beta")
    mine = Spool(tmp_path, durability="none")
    with Lease(mine, ROLE_WORKER) as lease:
        mine.enqueue("true", id="job1")
        entry = mine.find("job1")
        assert entry is not None
        assert mine.claim(entry, lease.worker, lease.next())
        other("alpha")
        fs = Hiding()
        spool = Spool(tmp_path, durability="none", fs=fs)
        fs.hidden = f"{lease.worker}.json"
        recover(spool)
        assert state_of(spool, "job1") == "processing"
        assert fs.hidden == "", "the listing was renewed"


def test_a_member_of_a_group_renews_a_listing_of_a_directory_that_another_has_made(tmp_path: Path) -> None:
    """He may not give it a time in the past; he touches it after a look, and looks again when a tick has passed."""

    class NotMine(Fs):
        def utime(self, path: str, ns: tuple[int, int] | None = None) -> None:
            if ns is not None:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
            os.utime(path)

    Spool(tmp_path, durability="none")
    spool = Spool(tmp_path, durability="none", fs=NotMine())
    spool.__dict__["mount"] = NFS3
    lookout = Lookout(spool, network=True, poll_interval=60.0, wall=time.time_ns, say=lambda *_: None)
    lookout.watch()
    try:
        times = [os.stat(tmp_path / "pending").st_mtime_ns]
        for _ in range(2):
            lookout.scan(time.monotonic())
            times.append(os.stat(tmp_path / "pending").st_mtime_ns)
        assert times[1] == times[0], "it was listed just after a change: in doubt"
        assert times[2] > times[1], "touched"
        soon = lookout._scan_at
        assert 0.1 < soon - time.monotonic() < 1
        until(lambda: time.monotonic() > soon)
        for _ in range(2):
            lookout.scan(time.monotonic())
        assert os.stat(tmp_path / "pending").st_mtime_ns == times[2], "and that was enough"
    finally:
        lookout.wakeup.stop()


def test_on_nfs_the_death_of_a_host_has_nobody_ask_for_each_waiting_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 10,000 jobs and 100 ms it would have taken two hours, in which nobody works."""

    class Undirected(Fs):
        """O_DIRECT is not for every disk that tests run on."""

        def open(self, path: str, flags: int, *args: Any, **more: Any) -> int:
            return os.open(path, flags & ~os.O_DIRECT, *args, **more)

    spool = Spool(tmp_path, durability="none", fs=Undirected())
    spool.__dict__["mount"] = NFS3
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "beta")
    lease = Lease(spool, ROLE_WORKER)
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "alpha")
    monkeypatch.setattr(recovering, "set_doubles_aside", lambda *_: pytest.fail("each job was asked for"))
    monkeypatch.setattr(recovering, "reserve_again", lambda *_: pytest.fail("each job was asked for"))
    recover(spool, stale_after=-1.0)
    assert listing(spool, "workers") == []
    os.close(lease._fd)


# -- who is alive ----------------------------------------------------------------------------------------------------


def test_nobody_is_called_dead_before_the_time_by_which_he_fences_himself(spool: Spool, other: Any) -> None:
    """`config set stale-after 60` while a host with 600 is cut off: it goes on for 300 s."""
    other("beta")
    with Lease(spool, ROLE_WORKER, stale_after=600.0) as lease:
        other("alpha")
        census = Census(spool, 60.0)
        assert [info.alive for info in census.look(0.0)] == [True]
        assert [info.alive for info in census.look(599.0)] == [True]
        assert [info.alive for info in census.look(600.0)] == [False]
        lease.promise(60.0)
        size = os.stat(spool.dir("workers") + f"{lease.worker}.json").st_size
        assert [info.alive for info in census.look(700.0)] == [True], "it was written, so it lives"
        assert [info.alive for info in census.look(760.0)] == [False]
        lease.promise(86400.123)
        assert os.stat(spool.dir("workers") + f"{lease.worker}.json").st_size == size
        assert [(info.slots, info.stale_after) for info in census.look(800.0)] == [(0, 86400.123)]


def test_the_clock_of_a_server_is_not_learned_from_an_answer_that_took_long(
    spool: Spool, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        learned = lease._ahead
        assert learned is not None
        clock, late = time.monotonic_ns, [0, 30_000_000_000]
        monkeypatch.setattr("queuectl.lease.time.monotonic_ns", lambda: clock() + (late.pop(0) if late else 0))
        assert lease.renew()
        assert lease._ahead == learned


def test_the_clock_is_asked_again_if_the_first_answer_took_long(
    spool: Spool, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, late = time.monotonic_ns, [0, 0, 0, 60_000_000_000]
    shared = Spool(spool.root, durability="none")
    monkeypatch.setattr("queuectl.disk.time.monotonic_ns", lambda: clock() + (late.pop(0) if late else 0))
    assert abs(shared.clock() - time.time_ns()) < 5_000_000_000


def test_a_changed_stale_after_is_said_in_the_lease_of_a_worker_that_runs(spool: Spool, other: Any) -> None:
    with worker(spool):
        def said() -> float:
            (info,) = Census(spool, 120.0).look(0.0)
            return info.stale_after

        assert said() == 120.0
        for value in (600.0, 60.0):
            queuectl(spool, "config", "set", "stale-after", f"{value:g}")
            until(lambda value=value: said() == value)  # type: ignore[misc]


def test_a_worker_that_is_cut_off_while_it_hangs_has_no_process_left(
    spool: Spool, other: Any, tmp_path: Path
) -> None:
    """The server is away: no beat succeeds, and the worker's own loop stands in a call. Others will run the job."""
    program = f"""
from queuectl.lease import Lease
from queuectl.lookout import Lookout
def away(self):
    raise OSError(5, "the server is away")
hints = Lookout.take_hints
def hang(self, now):
    if os.path.exists({str(tmp_path / "pid")!r}):
        gate({str(tmp_path / "gate")!r})
    return hints(self, now)
Lease.renew, Lookout.take_hints = away, hang
"""
    runs = f"echo $$ > {tmp_path}/draft; mv {tmp_path}/draft {tmp_path}/pid; exec sleep 600"
    spool.enqueue(f"setsid sh -c '{runs}' & wait")
    with patched(spool, program, "--heartbeat", "1", "--stale-after", "6"):
        until((tmp_path / "gate.reached").exists, what="the worker hangs")
        pid = int((tmp_path / "pid").read_text())
        until(lambda: orphans.is_zombie(pid), 20, "what has left the job's group is killed")


def test_a_process_is_known_for_its_jobs_while_it_executes_another_program(tmp_path: Path) -> None:
    """In the middle of an execve the kernel shows no environment. Such a process outlived the hunt."""
    (tmp_path / "again").write_text('exec /bin/sh "$0"\n')
    environ = {"QUEUECTL_CLAIM": "job1@w.1", "FILL": "x" * 20_000}  # the more there is, the longer it takes
    with subprocess.Popen(["/bin/sh", str(tmp_path / "again")], env=environ) as process:
        try:
            unknown = [n for n in range(300) if process.pid not in orphans.find("job1@w.1".__eq__, "/tmp")]
        finally:
            process.kill()
    assert unknown == []


def test_the_fence_has_strays_hunted_once_while_it_kills_again_and_again(spool: Spool) -> None:
    killed, hunted = threading.Semaphore(0), []
    with Lease(spool, ROLE_WORKER) as lease:
        heart = Heart(lease, 60.0, lambda: None)
        heart.fence_after(0.05, killed.release, lambda: hunted.append(threading.current_thread().name))
        heart.start()
        assert all(killed.acquire(timeout=5) for _ in range(3))
        heart.stop()
    assert hunted == ["hunt"]


# -- the last job ----------------------------------------------------------------------------------------------------


def test_a_worker_does_not_end_while_a_job_is_behind_the_fence_of_another(tmp_path: Path) -> None:
    """It lies in none of the states: it had left processing/ when that was listed, and failed/ was listed before."""

    class Settling(Spool):
        def scan(self, directory: str) -> Iterator[str]:
            if directory == "processing":
                for claim in self.claims():
                    os.rename(self.dir("processing") + claim.name, self.dir(".tmp") + claim.spent)
                    Path(self.dir(".tmp") + Record(claim, "failed", STAMP, 1).name).write_text("{}")
            return super().scan(directory)

    spool = Settling(tmp_path, durability="none")
    claim = Waiting(STAMP, 0, 0, "job1").claimed_by("elsewhere-1", 1)
    Path(spool.dir("processing") + claim.name).write_text("{}")
    last = Worker(spool, count=1, until_empty=True, flags={}, labels=(), say=print)
    last._lookout = Lookout(spool, network=False, poll_interval=1.0, wall=time.time_ns, say=lambda *_: None)
    assert not last._is_empty()
    for name in listing(spool, ".tmp"):
        os.unlink(spool.dir(".tmp") + name)
    assert last._is_empty()


def test_a_claim_that_is_no_job_and_is_recovered_by_another_is_not_said_to_be_set_aside(tmp_path: Path) -> None:
    mine, theirs = (Waiting(STAMP, 0, 0, "job1").claimed_by(worker_id, 1) for worker_id in ("here-1", "there-1"))

    class Recovered(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and args[1].endswith(".rejected"):
                os.rename(args[0], f"{tmp_path}/processing/{theirs.name}")

    spool = Spool(tmp_path, durability="none", fs=Recovered())
    Path(spool.dir("processing") + mine.name).write_text("no job")
    said: list[str] = []
    last = Worker(spool, count=1, until_empty=True, flags={}, labels=(), say=said.append)
    assert last._open(mine) is None
    assert said == []
    assert (listing(spool, "processing"), listing(spool, "dead")) == ([theirs.name], [])


def test_a_spare_that_was_made_although_it_was_refused_stops_nobody(tmp_path: Path) -> None:
    """Row 26."""
    fs = LyingFs()
    spool = Spool(tmp_path, durability="none", fs=fs)
    settler = Settler(spool, lambda: None)
    fs.arm(1, errno.EEXIST)
    with pytest.raises((SpoolError, FileExistsError)):
        settler.provide("w", 2)
    settler.provide("w", 2)
    assert len(settler.spares) == 2
    settler.close()


# -- few threads, unreadable files ---------------------------------------------------------------------------------


def no_room(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_thread_that_cannot_be_had_is_a_trouble_of_the_environment(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_room)
    with Lease(spool, ROLE_WORKER) as lease:
        heart = Heart(lease, 60.0, lambda: None)
        for start in (heart.start, lambda: one_thread("sync")):
            with pytest.raises(SpoolError, match="Could not start a thread"):
                start()
        heart.stop()
    watching = Wakeup({"pending": spool.dir("pending")})
    assert not watching.start()
    assert "can't start new thread" in watching.problem
    watching.stop()


def test_a_worker_whose_heart_cannot_be_started_takes_its_lease_anew(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a heart another host would take it for dead."""
    lone = Worker(spool, count=1, until_empty=True, flags={}, labels=(), say=print)
    lone._lookout = Lookout(spool, network=False, poll_interval=1.0, wall=time.time_ns, say=lambda *_: None)
    with monkeypatch.context() as few:
        few.setattr(threading.Thread, "start", no_room)
        with pytest.raises(SpoolError, match="Could not start a thread"):
            lone._take_lease()
    assert lone._heart.lost
    lone._lease.release()


def test_the_fence_hunts_as_soon_as_there_is_room_for_a_thread(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    fenced, hunted = threading.Semaphore(0), threading.Event()
    start, refused = threading.Thread.start, []

    def few(thread: threading.Thread) -> None:
        if thread.name == "hunt" and len(refused) < 2:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with Lease(spool, ROLE_WORKER) as lease:
        heart = Heart(lease, 60.0, lambda: None)
        heart.fence_after(0.05, fenced.release, hunted.set)
        heart.start()
        assert hunted.wait(5)
        assert all(fenced.acquire(timeout=5) for _ in range(4)), "and it goes on fencing"
        heart.stop()
    assert len(refused) == 2


def test_the_threads_for_syncs_are_there_before_they_are_needed() -> None:
    executor = one_thread("there")
    assert any(thread.name.startswith("there") for thread in threading.enumerate())
    executor.shutdown()


def test_fsck_finds_a_job_that_waits_twice_as_in_a_copy_of_a_busy_spool(spool: Spool) -> None:
    spool.enqueue_many([{"command": "true", "id": "a"}, {"command": "true", "id": "b"}])
    early = Path(spool.dir("pending") + f"{STAMP}.p0.a0.a.json")
    early.write_text('{"command": "true", "id": "a"}')
    assert [finding.kind for finding in fsck.check(spool, 120.0)] == ["double"]
    fsck.repair(spool, 120.0, Policy(), None, lambda *_: None)
    assert sorted(entry.id for entry in spool.entries(["pending"])) == ["a", "b"]
    assert [name for name in listing(spool, "dead") if name.endswith(".rejected")] != []


def test_fsck_leaves_directories_alone_and_removes_reasons_of_nothing(spool: Spool) -> None:
    os.mkdir(spool.dir("processing") + "sub")
    Path(spool.dir("dead") + "a.json.rejected.reason").write_text("it was no job\n")
    found = fsck.check(spool, 120.0)
    assert [(finding.kind, bool(finding.remedy)) for finding in found] == [("stranger", False), ("stranger", True)]
    fsck.repair(spool, 120.0, Policy(), None, lambda *_: None)
    assert (listing(spool, "processing"), listing(spool, "dead")) == (["sub"], [])


def test_fsck_goes_on_after_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    class Broken(Fs):
        def open(self, path: str, flags: int, *more: Any) -> int:
            if path.endswith("completed/bad.json"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return os.open(path, flags, *more)

    spool = Spool(tmp_path, durability="none", fs=Broken())
    for name in ("bad.json", "strange.txt"):
        Path(spool.dir("completed") + name).write_text("{}")
    found = {Path(finding.path).name: finding for finding in fsck.check(spool, 120.0)}
    assert set(found) == {"bad.json", "strange.txt"}
    assert found["bad.json"].mend is None
    assert "Could not read the job" in found["bad.json"].what


# -- ids -------------------------------------------------------------------------------------------------------------


def test_an_id_that_is_freed_while_it_is_asked_for_is_not_called_taken(tmp_path: Path) -> None:
    class Freed(Fs):
        tries = 0

        def symlink(self, source: str, target: str) -> None:
            self.tries += "/.ids/" in target
            if self.tries == 1 and "/.ids/" in target:  # its job is pruned just now
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
            os.symlink(source, target)

    spool = Spool(tmp_path, durability="none", fs=Freed())
    assert spool.enqueue("true", id="x") == "x"


def test_an_id_that_was_freed_before_the_lock_was_had_is_not_judged_any_more(spool: Spool) -> None:
    """Whoever freed it may be about to reserve it: its reservation was removed, and the id accepted twice."""
    assert spool._free_id("x", lambda: pytest.fail("it is gone"))


def test_a_pruned_job_does_not_take_the_reservation_of_the_next_one_with_it(tmp_path: Path, other: Any) -> None:
    """A cache says whose the id was; meanwhile another host has freed it and reserved it."""

    class Cached(Fs):
        def __init__(self) -> None:
            super().__init__()
            self.links: dict[str, str] = {}

        def open(self, path: str, flags: int, *args: Any, **more: Any) -> int:
            if flags & os.O_DIRECTORY:
                self.links.clear()
            return os.open(path, flags, *args, **more)

        def readlink(self, path: str) -> str:
            if path not in self.links:
                self.links[path] = os.readlink(path)
            return self.links[path]

        def after(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "unlink" and args[0].endswith("completed/x.json"):
                os.unlink(tmp_path / ".ids" / "x")
                os.symlink("theirs.1=draft", tmp_path / ".ids" / "x")

    spool = Spool(tmp_path, durability="none", fs=Cached())
    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="x")
        run_once(spool, lease, "x")
    (entry,) = spool.entries(["completed"])
    assert spool.remove_job(entry)
    assert os.readlink(tmp_path / ".ids" / "x") == "theirs.1=draft"


class Pausing(Fs):
    """A process that is stopped when its ids are reserved, before the first of its jobs is in pending/."""

    def __init__(self, meanwhile: Any) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def symlink(self, source: str, target: str) -> None:
        os.symlink(source, target)
        if target.endswith("/b"):
            self.meanwhile()


def test_an_id_that_was_taken_for_abandoned_by_another_is_not_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueuer is stopped for longer than an unused id is kept for it (Ctrl-Z; a long batch on a slow network)."""
    theirs = Spool(tmp_path, durability="none")

    def another_takes_it() -> None:
        age(theirs)
        assert theirs.enqueue("echo theirs", id="b") == "b"

    ours = Spool(tmp_path, durability="none", fs=Pausing(another_takes_it))
    monkeypatch.setattr(spools, "ABANDONED_ID", 0.0)
    with pytest.raises(SpoolError, match="its id 'b' was given to another one"):
        ours.enqueue_many([{"command": "true", "id": "a"}, {"command": "true", "id": "b"}])
    assert [entry.id for entry in theirs.entries()] == ["b"]
    assert body_of(theirs, "b")["command"] == "echo theirs"
    assert listing(theirs, ".ids") == ["b"], "and its reservation stays"


def test_an_enqueuer_that_was_stopped_just_before_it_publishes_finds_its_id_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has just confirmed its ids; then its machine is suspended, or somebody types Ctrl-Z."""
    theirs = Spool(tmp_path, durability="none")

    class Stopped(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and "/pending/" in args[1]:
                age(theirs)
                assert theirs.enqueue("echo theirs", id="a") == "a"

    monkeypatch.setattr(spools, "ABANDONED_ID", 5.0)
    with pytest.raises(SpoolError, match="its id 'a' was given to another one"):
        Spool(tmp_path, durability="none", fs=Stopped()).enqueue("echo ours", id="a")
    assert body_of(theirs, "a")["command"] == "echo theirs"
    assert listing(theirs, ".ids") == ["a"]
    assert leftovers(theirs) == []


def test_whoever_frees_an_id_sees_that_its_job_was_published_just_before(tmp_path: Path) -> None:
    ours = Spool(tmp_path, durability="none")

    class Late(Fs):
        """The draft is renamed when it is to be removed."""

        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "unlink" and args[0].endswith("=draft") and os.path.exists(args[0]):
                os.rename(args[0], ours.dir("pending") + f"{STAMP}.p0.a0.a.json")

    draft = ours._write_draft(b'{"command": "echo ours"}')
    ours._reserve("a", os.path.basename(draft))
    theirs = Spool(tmp_path, durability="none", fs=Late())
    age(theirs)
    assert theirs.free_abandoned("a") is False
    assert os.readlink(tmp_path / ".ids" / "a") == os.path.basename(draft)


def test_a_reservation_that_names_another_file_removes_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, durability="none")
    Path(tmp_path, "mine=draft").touch()
    os.symlink("../mine=draft", tmp_path / ".ids" / "a")
    age(spool)
    spool._is_fenced_off("a")
    assert Path(tmp_path, "mine=draft").exists()


def test_a_long_batch_keeps_its_ids_from_being_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[int] = []

    class Watched(Pausing):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and "/pending/" in args[1]:
                changed.append(os.lstat(args[0]).st_ctime_ns)

    begun = tmp_path / "begun"

    def a_tick_passes() -> None:
        begun.touch()
        tick = tmp_path / "tick"
        until(lambda: tick.touch() or tick.stat().st_ctime_ns > begun.stat().st_ctime_ns)

    spool = Spool(tmp_path / "spool", durability="none", fs=Watched(a_tick_passes))
    monkeypatch.setattr(spools, "ABANDONED_ID", 0.0)
    spool.enqueue_many([{"command": "true", "id": "a"}, {"command": "true", "id": "b"}])
    assert len(changed) == 2
    assert min(changed) > begun.stat().st_ctime_ns, "its drafts were touched again"


# -- a group's spool -------------------------------------------------------------------------------------------------


@needs_root
def test_another_members_process_that_nobody_may_look_into_is_known_by_its_log(tmp_path: Path) -> None:
    """R8: a member's worker was killed, and another member's finds its job. It was run beside what was left of it."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        root = f"{directory}/spool"
        initialise(root, group=NOBODY)
        spool = Spool(root, durability="none")
        recover(spool)  # imports what the member may not read
        spool.enqueue("sleep 20", id="a")
        lease = Lease(spool, ROLE_WORKER)
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        log = spool.open_log("a.1.log")
        environ = {"QUEUECTL_CLAIM": claim.key, "QUEUECTL_SPOOL": root, "PATH": os.environ["PATH"]}
        with subprocess.Popen(["sleep", "20"], env=environ, stdout=log, user=12345, group=NOBODY) as theirs:
            os.close(log)
            die(lease)
            said = as_user(NOBODY, NOBODY, lambda: str(recover(Spool(root, durability="none"))))
            assert "still write to a.1.log; its jobs wait for them" in said
            assert state_of(spool, "a") == "processing"
            theirs.kill()
            theirs.wait()
            as_user(NOBODY, NOBODY, lambda: str(recover(Spool(root, durability="none"))))
            assert state_of(spool, "a") == "failed"


def test_a_private_spool_that_becomes_a_groups_opens_what_lies_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", durability="none")
    spool.enqueue("true", id="waits")
    initialise(spool.root, group=os.getegid())
    for path in (f"{spool.root}/.id", f"{spool.root}/pending/{listing(spool, 'pending')[0]}"):
        assert mode(path) & 0o060 == 0o060, path


def test_a_directory_whose_opening_to_the_group_was_cut_short_is_opened(tmp_path: Path) -> None:
    initialise(str(tmp_path / "spool"), group=os.getegid())
    os.chmod(tmp_path / "spool" / "pending", 0o2750)
    initialise(str(tmp_path / "spool"))
    assert stat.S_IMODE(os.stat(tmp_path / "spool" / "pending").st_mode) == 0o2770
