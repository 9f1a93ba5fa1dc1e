"""What surrounds a worker must not stop it, nor be harmed by it: its parent's signals, few descriptors, files that
cannot be moved, jobs of an id that was used before. It is long because it is a list of them."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from queuectl.core import job as jobs
from queuectl.errors import SpoolError
from queuectl.lease import ROLE_CLI, ROLE_WORKER, Lease
from queuectl.spool import Spool
from tests.faults.patched import patched
from tests.support import (
    WorkerProcess,
    body_of,
    die,
    drop,
    environment,
    listing,
    needs_root,
    only,
    places,
    queuectl,
    run_once,
    state_of,
    until,
    worker,
)


def stop_now(spool: Spool, process: WorkerProcess) -> None:
    """Leave no job running."""
    assert queuectl(spool, "worker", "stop", "--now").returncode == 0
    assert process.process.wait(15) == 0


def test_a_worker_whose_parent_ignored_the_end_of_children_knows_how_its_jobs_end(spool: Spool) -> None:
    """Exec passes SIG_IGN on, and with it the kernel would take each child away itself: each attempt seemed lost."""
    spool.enqueue("exit 7", id="one", max_retries=0)
    spool.enqueue("sleep 0.2; grep SigIgn /proc/self/status", id="two")
    ignore = "import os, signal, sys; [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGCHLD, signal.SIGUSR1)];"
    exec_it = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", ignore + exec_it, "-m", "queuectl", "--spool", spool.root, "worker", "start"]
    done = subprocess.run([*command, "--until-empty"], env=environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert body_of(spool, "one")["last_error"] == "exit code 7"
    assert body_of(spool, "two")["history"][0]["exit_code"] == 0
    ignored = Path(spool.dir("logs"), "two.1.log").read_text().split()[1]
    internal = 3 << 31  # glibc's own two, which posix_spawn always has ignored
    assert int(ignored, 16) & ~internal == 0, "no signal is ignored by a job"


@needs_root
def test_one_file_that_cannot_be_moved_stops_no_other_job(spool: Spool) -> None:
    """One that is mounted into pending/ (containers do that) is EBUSY; another member's, or an immutable one, EPERM."""
    first, second = spool.enqueue("true", id="first", priority=9), spool.enqueue("true", id="second")
    foreign = drop(spool, "foreign.json", {"command": "true"})
    name = Path(spool.dir("pending")) / places(spool, first)[0].partition("/")[2]
    for path in (name, foreign):
        subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        with worker(spool) as process:
            until(lambda: spool.has_ended(second, "completed"), what="the other job runs")
            for n in range(3):
                spool.enqueue("true", id=f"more{n}")
                until(lambda n=n: spool.has_ended(f"more{n}", "completed"), what="others run too")  # type: ignore[misc]
            assert process.said.count("job first is passed over for now: Could not move a job: ") == 1
            until(lambda: "can neither be taken nor set aside, and stays there" in process.said, what="it is told of")
            assert state_of(spool, first) == "pending"
            assert "trouble" not in process.said
            assert process.end() == 0
    finally:
        for path in (name, foreign):
            subprocess.run(["umount", path], check=True)
    with worker(spool):
        until(lambda: spool.has_ended(first, "completed"), what="it is taken when it can be")


@needs_root
def test_a_claim_that_cannot_be_moved_holds_up_the_recovery_of_no_other(spool: Spool) -> None:
    with worker(spool, "--count", "2") as process:
        for job_id in ("a", "b"):
            spool.enqueue("sleep 1000", id=job_id)
        until(lambda: {"a.1.log", "b.1.log"} <= set(listing(spool, "logs")), what="both run")
        process.kill()
    claim = os.path.join(spool.root, places(spool, "a")[0])
    subprocess.run(["mount", "--bind", claim, claim], check=True)
    try:
        with worker(spool) as process:
            until(lambda: "job a cannot be recovered yet: Could not move a job" in process.said, what="it says so")
            until(lambda: "job b: attempt 1 was lost" in process.said, what="the other is recovered")
            spool.enqueue("true", id="c")
            until(lambda: spool.has_ended("c", "completed"), what="it works")
            spool.put_request("nobody.cancel")
            until(lambda: not spool.has_request("nobody.cancel"), what="it has looked again")
            assert process.said.count("job a cannot be recovered yet") == 1
            stop_now(spool, process)
    finally:
        subprocess.run(["umount", claim], check=True)


def test_a_worker_has_no_more_slots_than_descriptors_and_says_so(spool: Spool) -> None:
    """Else nothing is left to record an outcome with, or to show that it is alive: where hosts share a spool it fenced
    itself, and all its jobs were lost, again and again."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    ids = spool.enqueue_many([jobs.check({"command": "sleep 2"}) for _ in range(20)])
    command = [sys.executable, "-m", "queuectl", "--spool", spool.root, "worker", "start", "--until-empty"]
    done = subprocess.run(
        [*command, "--count", "30", "--heartbeat", "0.2", "--stale-after", "1"], preexec_fn=few, capture_output=True,
        env=environment(QUEUECTL_PRETEND_HOST="another"), text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"warning: [0-9]+ slots? instead of 30, for a job takes two descriptors: raise `ulimit -n` \(40\)",
                     done.stderr)  # fmt: skip
    assert "no job can be started" not in done.stderr
    assert "lost" not in done.stderr
    assert all(len(body_of(spool, job_id)["history"]) == 1 for job_id in ids)


def test_a_heartbeat_counts_though_there_is_no_descriptor_to_look_whether_it_is_seen(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        def short(name: str) -> int:
            raise SpoolError("", errno=errno.EMFILE)

        monkeypatch.setattr(spool, "open_worker_file", short)
        assert lease.renew()


def test_a_spare_log_is_not_taken_for_the_new_one_of_a_later_job_of_the_same_id(spool: Spool, tmp_path: Path) -> None:
    """A pruned job's id is used again (a nightly job's): its output went to another job's log, whose own was lost."""
    gate = tmp_path / "gate"
    waits = f"until [ -e {gate} ]; do sleep 0.02; done"
    with worker(spool, "--count", "2"):
        spool.enqueue("true", id="a")
        until(lambda: spool.has_ended("a", "completed"), what="a leaves a spare log")
        assert queuectl(spool, "prune", "--state", "completed").returncode == 0
        spool.enqueue(f"echo out of a; {waits}", id="a")
        until(lambda: Path(spool.dir("logs"), "a.1.log").exists(), what="the new a runs")
        spool.enqueue("echo out of d", id="d")
        until(lambda: spool.has_ended("d", "completed"), what="d has ended")
        gate.touch()
        until(lambda: spool.has_ended("a", "completed"), what="a has ended")
    assert Path(spool.dir("logs"), "a.1.log").read_text() == "out of a\n"
    assert Path(spool.dir("logs"), "d.1.log").read_text() == "out of d\n"


def test_a_spare_log_whose_name_is_anothers_by_now_is_given_back(spool: Spool) -> None:
    """It was pruned, and made again by another worker, between the look and the rename."""
    logs = Path(spool.dir("logs"))
    spare = spool.open_log("a.1.log")

    class Fs:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def rename(self, old: str, new: str) -> None:
            if old.endswith("a.1.log") and not other:
                os.unlink(old)
                other.append(Spool(spool.root).open_log("a.1.log"))
            os.rename(old, new)

    other: list[int] = []
    late = Spool(spool.root, fs=Fs())
    assert not late.rename_log("a.1.log", spare, "d.1.log")
    os.write(other[0], b"out of a")
    assert sorted(path.name for path in logs.iterdir()) == ["a.1.log"]
    assert (logs / "a.1.log").read_text() == "out of a"
    again = spool.open_log("a.1.log")
    os.write(again, b"of the next a")
    os.write(other[0], b", and late")
    assert (logs / "a.1.log").read_text() == "of the next a", "who still has the old one writes to that"
    for fd in (spare, other[0], again):
        os.close(fd)


def test_a_file_is_in_hand_for_each_slot_though_somebody_reads_the_claims(spool: Spool, tmp_path: Path) -> None:
    """An indexer or a backup: a claim that is open elsewhere is not recycled, and the spares were used up."""
    with worker(spool, "--count", "4") as process, ExitStack() as readers:
        for n in range(12):
            path = tmp_path / f"{n}.json"
            path.write_text(json.dumps({"command": "true", "id": f"job{n}"}))
            readers.enter_context(path.open())
            path.rename(Path(spool.dir("pending")) / path.name)
        until(lambda: len(listing(spool, "completed")) == 12, what="they are done")
        spool.enqueue_many([jobs.check({"command": "sleep 1000"}) for _ in range(4)])
        until(lambda: len(listing(spool, "processing")) == 4, what="all slots are taken")
        until(lambda: len(listing(spool, ".tmp")) >= 4, what="a spare for each")
        stop_now(spool, process)


def test_a_log_that_cannot_be_made_stops_no_other_job(spool: Spool) -> None:
    Path(spool.dir("logs"), "first.1.log").mkdir()
    spool.enqueue("true", id="first", priority=9)
    with worker(spool) as process:
        spool.enqueue("true", id="second")
        until(lambda: spool.has_ended("second", "completed"), what="the other job runs")
        assert process.said.count("job first is passed over for now: Could not open the log: ") == 1
        assert "trouble" not in process.said
        assert state_of(spool, "first") == "pending"
        process.kill()
    Path(spool.dir("logs"), "first.1.log").rmdir()
    with worker(spool):
        until(lambda: spool.has_ended("first", "completed"), what="it runs when its log can be made")
    assert len(body_of(spool, "first")["history"]) == 1


def test_a_job_that_cannot_be_read_for_a_moment_is_no_bad_file(spool: Spool, tmp_path: Path) -> None:
    """A disk says EIO once, or a server is away (a soft mount). It is not asked all the time."""
    tries = tmp_path / "tries"
    away = f"""
import errno
import queuectl.lookout as lookout
import queuectl.worker as worker
lookout.SLOW_SCAN, worker.LEFT_ALONE = 0.1, 0.3
real, began = os.open, []
def opened(path, flags, *rest, **more):
    if "/processing/" in str(path) and ".one@" in str(path):
        with open({str(tries)!r}, "a") as file:
            file.write("x")
        began.append(time.monotonic())
        if time.monotonic() < began[0] + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    return real(path, flags, *rest, **more)
os.open = opened
"""
    spool.enqueue("true", id="one")
    with patched(spool, away) as process:
        until(lambda: spool.has_ended("one", "completed"), what="it is tried again")
        assert process.said.count("job one is passed over for now: ") == 1
    assert 2 < len(tries.read_text()) < 12
    assert len(body_of(spool, "one")["history"]) == 1
    assert listing(spool, "dead") == []


def test_blocked_signals_that_it_inherits_do_not_keep_a_worker_from_stopping(spool: Spool) -> None:
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT});"
    exec_it = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", block + exec_it, "-m", "queuectl", "--spool", spool.root, "worker", "start"]
    process = subprocess.Popen(command, env=environment())
    try:
        until(lambda: listing(spool, "workers"), what="it works")
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()


def test_a_request_to_cancel_that_came_too_late_does_not_meet_the_next_job_of_that_id(spool: Spool) -> None:
    spool.enqueue("true", id="one")
    with Lease(spool, ROLE_CLI) as lease:
        run_once(spool, lease, "one")
    spool.put_request("one.cancel")
    assert queuectl(spool, "prune", "--state", "completed").returncode == 0
    spool.enqueue("true", id="one")
    with worker(spool):
        until(lambda: spool.has_ended("one", "completed"), what="it is not cancelled")


def left_by_a_worker(spool: Spool) -> tuple[Lease, subprocess.Popen[bytes]]:
    """The lease of a worker that runs job one, and a process of the job that shows whose it is by the log alone, and
    not as its output."""
    lease = Lease(spool, ROLE_WORKER)
    spool.enqueue("true", id="one")
    assert spool.claim(only(spool), lease.worker, lease.next())
    log = spool.open_log("one.1.log")
    left = subprocess.Popen(["sleep", "1000"], env={}, pass_fds=[log], stdout=subprocess.DEVNULL)
    os.close(log)
    return lease, left


def test_a_job_is_not_run_beside_what_still_holds_its_log_though_nothing_else_shows_it(spool: Spool) -> None:
    """R8. What sudo or su have made another user's shows neither its environment nor its output to a worker."""
    hide = "import queuectl.orphans as o\no.holders = lambda *_: {}\n"
    lease, left = left_by_a_worker(spool)
    try:
        die(lease)
        with patched(spool, hide) as process:
            until(lambda: "still write to one.1.log; its jobs wait for them" in process.said, what="it says so")
            assert state_of(spool, "one") == "processing"
            spool.enqueue("true", id="two")
            until(lambda: spool.has_ended("two", "completed"), what="others run")
            left.kill()
            left.wait()
            until(lambda: state_of(spool, "one") == "failed", what="it is recovered soon after that has ended")
    finally:
        left.kill()
        left.wait()


def test_what_holds_its_log_by_any_descriptor_is_killed_before_the_job_runs_again(spool: Spool) -> None:
    """A server that overwrites its environment, started by a script that had put its output aside."""
    lease, left = left_by_a_worker(spool)
    path = Path(spool.dir("logs"), "one.1.log")
    with path.open() as reading, subprocess.Popen(["sleep", "1000"], stdin=reading) as tail:
        try:
            die(lease)
            with worker(spool):
                assert left.wait(10) == -signal.SIGKILL
                until(lambda: state_of(spool, "one") == "failed", what="it is recovered")
            assert tail.poll() is None, "who only reads is left alone"
        finally:
            tail.kill()
            left.kill()
            left.wait()


def test_a_worker_that_ends_removes_no_log_that_has_the_name_of_its_spare(spool: Spool) -> None:
    with worker(spool) as first:
        spool.enqueue("true", id="a")
        until(lambda: spool.has_ended("a", "completed"), what="a leaves a spare log")
        assert queuectl(spool, "prune", "--state", "completed").returncode == 0
        first.process.send_signal(signal.SIGSTOP)
        spool.enqueue("echo out of a", id="a")
        with worker(spool):
            until(lambda: spool.has_ended("a", "completed"), what="another worker runs the new a")
        first.process.send_signal(signal.SIGCONT)
        assert first.end() == 0
    assert Path(spool.dir("logs"), "a.1.log").read_text() == "out of a\n"


def test_a_worker_whose_lease_was_removed_is_not_killed_for_the_log_that_it_holds(spool: Spool, tmp_path: Path) -> None:
    """It kills its jobs by itself, and goes on; nor is the shell that started it killed."""
    gate = tmp_path / "gate"
    with worker(spool) as first, worker(spool) as second:
        spool.enqueue(f"[ $QUEUECTL_ATTEMPT = 2 ] || until [ -e {gate} ]; do sleep 0.02; done", id="one")
        until(lambda: Path(spool.dir("logs"), "one.1.log").exists(), what="it runs")
        (claim,) = spool.claims()
        os.unlink(spool.dir("workers") + f"{claim.worker}.json")
        spool.put_request("nobody.cancel")  # all look at once
        until(lambda: spool.has_ended("one", "completed"), 20, what="it runs again")
        assert [process.process.poll() for process in (first, second)] == [None, None]
        assert "another user" not in first.said + second.said


@needs_root
def test_many_files_that_cannot_be_moved_do_not_stop_the_others(spool: Spool) -> None:
    ids = spool.enqueue_many([jobs.check({"command": "true", "priority": 9}) for _ in range(60)])
    paths = [os.path.join(spool.dir("pending"), name) for name in listing(spool, "pending")]
    for path in paths:
        subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        with patched(spool, "import queuectl.worker as w\nw.LEFT_ALONE = 0.5\nw.TROUBLE_PAUSE = 0.1\n") as process:
            spool.enqueue("true", id="good")
            until(lambda: spool.has_ended("good", "completed"), 30, what="the other job runs")
            assert process.end() == 0
    finally:
        for path in paths:
            subprocess.run(["umount", path], check=True)
    assert all(state_of(spool, job_id) == "pending" for job_id in ids)


@pytest.mark.parametrize("call", ["fstat", "rename", "stat"])
def test_a_spare_log_that_another_host_has_pruned_is_no_trouble(spool: Spool, call: str) -> None:
    """A network file system says ESTALE of it, or that it is gone."""

    class Fs:
        def __getattr__(self, name: str) -> Any:
            return self.stale if name == call and is_pruned else getattr(os, name)

        def stale(self, *_: object) -> None:
            raise OSError(errno.ESTALE if call != "rename" else errno.ENOENT, "gone")

    fd = spool.open_log("a.1.log")
    if call == "rename":
        os.unlink(spool.dir("logs") + "a.1.log")
    is_pruned = False
    other = Spool(spool.root, fs=Fs())
    is_pruned = True
    assert not other.rename_log("a.1.log", fd, "b.1.log")
    os.close(fd)
