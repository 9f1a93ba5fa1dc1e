"""What must not stop a worker, hold it up or keep it awake: a call that fails once, a lease that is lost, zombies."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuectl import actions
from queuectl.core import job as jobs
from queuectl.core.names import Waiting
from queuectl.lookout import Lookout
from queuectl.runner import Overdue, Runner
from queuectl.spool import Spool
from queuectl.wakeup import Hint, Wakeup
from queuectl.worker import Worker
from tests.faults.patched import completes, patched
from tests.support import WorkerProcess, environment, listing, state_of, until, worker

STAMP = "20200101T000000.000000Z"
CLAIM = Waiting(STAMP, 0, 0, "job1").claimed_by("w", 1)
TIMES = ("--heartbeat", "0.2", "--stale-after", "1", "--poll-interval", "0.1")

SYNC_FAILS_ONCE = """
import errno
real, failed = os.open, []
def opened(path, flags, *rest, **more):
    if str(path).endswith("/completed/") and flags & os.O_DIRECTORY and not failed:
        failed.append(path)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
    return real(path, flags, *rest, **more)
os.open = opened
"""
WATCH_FAILS_ONCE = """
import errno, select
class Poller:
    def __init__(self):
        self.real, self.left = select_epoll(), 3
    def register(self, *arguments):
        self.left -= 1
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.real.register(*arguments)
    def __getattr__(self, name):
        return getattr(self.real, name)
select_epoll, select.epoll = select.epoll, Poller
"""


def test_a_failed_sync_of_a_directory_is_over_when_the_next_one_succeeds(tmp_path: Path) -> None:
    """Nothing waited behind it, so nothing said that the trouble was over; no job was claimed any more."""
    spool = Spool(tmp_path / "spool", durability="fsync")
    with patched(spool, SYNC_FAILS_ONCE) as process:
        spool.enqueue("true", id="one")
        completes(spool, "one")
        until(lambda: "Too many open files" in process.said)
        spool.enqueue("true", id="two")
        completes(spool, "two")


def test_an_attempt_that_could_not_be_watched_at_once_ends_all_the_same(spool: Spool) -> None:
    with patched(spool, WATCH_FAILS_ONCE) as process:
        spool.enqueue("true", id="one")
        completes(spool, "one")
        spool.enqueue("true", id="two")
        completes(spool, "two")
        assert "No space left on device" in process.said


def test_what_a_long_job_leaves_as_zombies_is_buried_while_it_runs(spool: Spool, tmp_path: Path) -> None:
    command = f"for i in 1 2 3 4 5; do (sh -c 'echo $$ >> {tmp_path}/pids' &); done; exec sleep 1000"
    with patched(spool, "import queuectl.worker\nqueuectl.worker.BURY_EVERY = 0.05\n"):
        spool.enqueue(command, id="long")
        pids = until(lambda: (tmp_path / "pids").exists() and len(text := (tmp_path / "pids").read_text().split()) == 5
                     and text)  # fmt: skip
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="their zombies are gone")
        assert state_of(spool, "long") == "processing"


def test_a_stop_that_was_asked_for_while_a_worker_was_taken_for_dead_is_obeyed(spool: Spool) -> None:
    spool.change_config({"heartbeat": "0.2", "stale-after": "1", "poll-interval": "0.1"})
    with worker(spool, QUEUECTL_PRETEND_HOST="alpha") as alpha:
        (name,) = (name.removesuffix(".json") for name in listing(spool, "workers"))
        with worker(spool, QUEUECTL_PRETEND_HOST="beta"):
            alpha.process.send_signal(signal.SIGSTOP)
            actions.request_stop(spool, [name], now=False)
            until(lambda: f"{name}.json" not in listing(spool, "workers"), 20, "beta takes it for dead")
            alpha.process.send_signal(signal.SIGCONT)
            assert alpha.process.wait(20) == 0
            assert f"{name}.stop" not in listing(spool, "workers")


# -- another spool at its place ----------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Spool, WorkerProcess]]:
    """A worker that runs job "one", which ends when `tmp_path`/go is there."""
    spool = Spool(tmp_path / "spool", durability="none")
    with worker(spool) as process:
        command = f"echo $QUEUECTL_ATTEMPT >> {tmp_path}/ran; until [ -e {tmp_path}/go ]; do sleep 0.01; done"
        spool.enqueue(command, id="one", backoff_base=0)
        until((tmp_path / "ran").exists)
        yield spool, process


def test_an_outcome_waits_for_its_spool_while_another_one_lies_at_its_place(
    running: tuple[Spool, WorkerProcess], tmp_path: Path
) -> None:
    """It was unmounted, and somebody has enqueued to the empty mount point."""
    spool, process = running
    os.rename(spool.root, tmp_path / "away")
    stranger = Spool(spool.root, durability="none")
    stranger.enqueue("true", id="lost")
    (tmp_path / "go").touch()
    until(lambda: process.said.count("is not the spool it was") >= 2, what="it cannot settle there either")
    os.rename(spool.root, tmp_path / "stranger")
    os.rename(tmp_path / "away", spool.root)
    completes(spool, "one")
    assert (tmp_path / "ran").read_text() == "1\n"
    assert "was lost" not in process.said
    assert listing(tmp_path / "stranger", "completed") == []


def test_a_worker_that_is_told_to_stop_now_does_not_wait_for_a_spool_that_is_gone(
    running: tuple[Spool, WorkerProcess], tmp_path: Path
) -> None:
    spool, process = running
    os.rename(spool.root, tmp_path / "away")
    (tmp_path / "go").touch()
    until(lambda: process.said.count("is not the spool it was") >= 2, what="the outcome cannot be recorded")
    process.process.send_signal(signal.SIGTERM)
    until(lambda: "SIGTERM: waiting until 1 outcome can be recorded; once more stops now" in process.said)
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(30) == 3
    assert "1 outcome could not be recorded; whoever works next will recover the jobs" in process.said


# -- sleep ------------------------------------------------------------------------------------------------------------


def test_a_wakeup_that_is_written_late_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is stopped in the middle of `poke`: what it writes then kept the worker awake until the next hint."""
    wakeup = Wakeup({})
    go, real = threading.Event(), os.eventfd_write
    monkeypatch.setattr(os, "eventfd_write", lambda fd, value: go.wait(20) and real(fd, value))
    thread = threading.Thread(target=wakeup.hint, args=(Hint("pending", "x", True, False),))
    thread.start()
    until(lambda: wakeup._raised)
    assert wakeup.take()[0] == [Hint("pending", "x", True, False)]
    go.set()
    thread.join()
    assert select.select([wakeup], [], [], 0)[0] == [wakeup]
    wakeup.seen_readable()
    assert wakeup.take() == ([], False)
    assert select.select([wakeup], [], [], 0)[0] == []
    wakeup.stop()


def test_whatever_wakes_a_worker_is_read(spool: Spool) -> None:
    one = Worker(spool, count=1, until_empty=False, flags={}, labels=(), say=print)
    one._lookout = Lookout(spool, network=False, poll_interval=1.0, wall=spool.clock, say=lambda *_: None)
    one._runner = Runner(spool, {})
    one._signal_fd, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wakeup = one._lookout.wakeup
    one._poller = select.epoll()
    for fd in (one._signal_fd, wakeup.fileno()):
        one._poller.register(fd, select.EPOLLIN)
    os.write(theirs, b"x")  # after its handler has run, as from another thread
    os.eventfd_write(wakeup.fileno(), 1)
    one._reap(0)
    wakeup.take()
    assert one._poller.poll(0) == []


# -- the fence (R8) ---------------------------------------------------------------------------------------------------


def test_nothing_is_started_when_the_lease_went_stale_during_the_preparations(spool: Spool) -> None:
    runner = Runner(spool, {}, is_overdue=lambda: True)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Overdue):
        runner.start(CLAIM, jobs.parse(b'{"command": "true"}'), None)
    assert runner.running == {}
    assert os.listdir("/proc/self/fd") == before


LATE = """
from queuectl import lease
real, beat, listdir = os.open, lease.Lease._beat, os.listdir
def opened(path, flags, *rest, **more):
    if "/logs/x.1." in str(path):
        gate({gate!r})
    return real(path, flags, *rest, **more)
def beats(self):
    if os.path.exists({gate!r} + ".reached"):
        gate({gate!r})
    beat(self)
def listed(*path):
    time.sleep(0.05)
    return listdir(*path)
os.open, lease.Lease._beat, os.listdir = opened, beats, listed
"""


def test_a_worker_whose_server_was_away_while_it_opened_the_log_does_not_start_the_command(
    spool: Spool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with patched(spool, LATE.format(gate=str(gate)), *TIMES, variables={"QUEUECTL_PRETEND_HOST": "alpha"}) as alpha:
        spool.enqueue(f"echo $QUEUECTL_CLAIM >> {tmp_path}/trace", id="x", backoff_base=0)
        until((tmp_path / "gate.reached").exists)
        with worker(spool, *TIMES, QUEUECTL_PRETEND_HOST="beta"):
            completes(spool, "x", 30)
        gate.touch()
        until(lambda: "was lost" in alpha.said)
        spool.enqueue("true", id="y")
        completes(spool, "y")
    (line,) = (tmp_path / "trace").read_text().split()
    assert "@beta-" in line


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGIO, lambda *_: print("waits", flush=True))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.readline()
os.close(fd)
"""


def test_a_program_on_a_server_that_hangs_holds_no_other_thread_up(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python holds its lock during posix_spawn, and the fence is a thread. A file lease (fcntl(2)) makes execve wait as
    a server would that is away."""
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "alpha")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    runner = Runner(spool, {})
    job = jobs.check({"argv": [str(program)]})
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        thread = threading.Thread(target=runner.start, args=(CLAIM, job, None))
        thread.start()
        assert holder.stdout.readline() == "waits\n"
        assert thread.is_alive(), "this thread was held up until the program had been started"
        holder.communicate("go\n", timeout=20)
        thread.join(20)
    (pidfd,) = runner.running
    assert runner.reap(pidfd).outcome is not None


@pytest.mark.parametrize("what", ["pipe", "terminal"])
def test_who_has_stopped_reading_what_a_worker_says_holds_no_job_up(spool: Spool, what: str) -> None:
    """Ctrl-S, a pager, a log shipper that hangs: no timeout would be enforced, and no signal obeyed."""
    reader, writer = os.pipe() if what == "pipe" else pty.openpty()
    if what == "terminal":
        termios.tcflow(writer, termios.TCOOFF)
    command = [sys.executable, "-m", "queuectl", "--spool", spool.root, "worker", "start", "--log-level", "debug"]
    process = subprocess.Popen(command, stderr=writer, env=environment(), start_new_session=True)
    try:
        name = "x" * 90
        spool.enqueue_many([jobs.check({"command": "true", "id": f"{name}{n}"}) for n in range(400)])
        until(lambda: len(listing(spool, "completed")) == 400, 30, "all jobs are done")
        if what == "pipe":
            assert b" completed" in os.read(reader, 1 << 20)
            spool.enqueue("true", id="last")
            said = b""
            while b"last completed" not in said:
                said += os.read(reader, 1 << 20)
            assert re.match(rb"\([0-9,]+ lines left out, for nobody read\)\n.*\n", said)
    finally:
        process.terminate()
        assert process.wait(15) == 0
        os.close(writer)
        os.close(reader)


def test_a_worker_with_jobs_claimed_ahead_sleeps_while_its_spool_is_away(spool: Spool, tmp_path: Path) -> None:
    gate, away = tmp_path / "gate", Path(f"{spool.root}.away")
    long = {"command": f"until [ -e {gate} ]; do sleep 0.05; done", "id": "long"}
    spool.enqueue_many([jobs.check(job) for job in [long] + [{"command": "true"}] * 20])
    patience = "import queuectl.worker as w\nw.AHEAD, w.PATIENCE = 10.0, 2.0\n"
    with patched(spool, patience, "--durability", "none", "--max-log", "none") as process:
        until(lambda: len(listing(spool, "processing")) > 1, what="jobs are claimed ahead")
        os.rename(spool.root, away)
        Path(spool.root).mkdir()  # a mount point without its mount
        (away / "workers" / "hint.stop").touch()
        until(lambda: "warning" in process.said, what="it has seen that")
        seen = time.monotonic()
        until(lambda: time.monotonic() > seen + 2, what="its patience is over")
        began, before = time.monotonic(), cpu(process.pid)
        until(lambda: time.monotonic() > began + 1.5, what="it has had time to spin")
        assert cpu(process.pid) - before < 0.5 * (time.monotonic() - began)
        Path(spool.root).rmdir()
        os.rename(away, spool.root)
        gate.touch()
        until(lambda: len(listing(spool, "completed")) == 21, what="it goes on")
        assert process.end() == 0


def cpu(pid: int) -> float:
    """The processor's seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
