"""Rows 47 to 57: what a host or a file system runs out of, and jobs that use too much."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queuectl.core.logs import HEAD, MARK, left_out
from queuectl.spool import Spool
from tests.faults.patched import completes, patched
from tests.support import WorkerProcess, body_of, listing, queuectl, state_of, until, worker


def test_row_47_a_file_system_without_hard_links_holds_a_spool(tmp_path: Path) -> None:
    class NoLinks:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    spool = Spool(tmp_path / "spool", fs=NoLinks())
    assert spool.enqueue("true", id="one") == "one"
    assert Spool(tmp_path / "spool").identity == spool.identity
    assert listing(spool, ".tmp") == []


def test_row_48_while_a_sync_hangs_the_worker_shows_that_it_is_alive(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", durability="fsync")
    go = tmp_path / "go"
    # Not the syncs of its start: the first that hangs is that of a claim.
    late = f"""
import queuectl.worker as w
real, begin = os.fsync, w.Worker._claim
def fsync(fd):
    gate({str(go)!r})
    real(fd)
def claim(self):
    os.fsync = fsync
    return begin(self)
w.Worker._claim = claim
"""
    with patched(spool, late, "--heartbeat", "0.1") as process:
        spool.enqueue("true", id="one")
        until((tmp_path / "go.reached").exists, what="the sync of the claim hangs")
        (lease,) = [name for name in listing(spool, "workers") if name.endswith(".json")]
        before = os.stat(spool.dir("workers") + lease).st_mtime_ns
        until(lambda: os.stat(spool.dir("workers") + lease).st_mtime_ns > before + 3 * 10**8, what="three beats")
        assert state_of(spool, "one") == "processing"
        go.touch()
        completes(spool, "one")
        assert process.end() == 0
    assert len(body_of(spool, "one")["history"]) == 1


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOMEM"])
def test_row_49_what_this_process_lacks_is_no_fault_of_the_job_that_it_reads(spool: Spool, name: str) -> None:
    lacks = f"""
import errno
real, left = os.open, [2]
def short(path, *rest, **more):
    if left[0] and "/processing/" in str(path) and str(path).endswith(".json"):
        left[0] -= 1
        raise OSError(errno.{name}, os.strerror(errno.{name}), path)
    return real(path, *rest, **more)
os.open = short
"""
    spool.enqueue("true", id="one")
    with patched(spool, lacks) as process:
        until(lambda: not listing(spool, "pending") or "trouble" in process.said, what="it was taken")
        until(lambda: spool.has_ended("one", "completed") or list(spool.rejected()), 40, what="it comes to an end")
    assert list(spool.rejected()) == []
    assert state_of(spool, "one") == "completed"


@pytest.mark.parametrize("name", ["EAGAIN", "ENOMEM"])
def test_row_50_without_room_for_a_process_the_claim_goes_back_uncounted(
    spool: Spool, tmp_path: Path, name: str
) -> None:
    busy = f"""
import errno
real = os.posix_spawn
def spawn(*words, **more):
    if not os.path.exists({str(tmp_path / "room")!r}):
        raise OSError(errno.{name}, os.strerror(errno.{name}))
    return real(*words, **more)
os.posix_spawn = spawn
"""
    spool.enqueue("true", id="one", max_retries=0)
    with patched(spool, busy) as process:
        until(lambda: "no job can be started" in process.said, what="it says why nothing starts")
        until(lambda: state_of(spool, "one") == "pending", what="the job waits again")
        (tmp_path / "room").touch()
        completes(spool, "one")
        assert process.end() == 0
    assert body_of(spool, "one")["attempts"] == 1
    assert len(body_of(spool, "one")["history"]) == 1


def test_row_51_a_job_whose_reading_exhausts_the_memory_stops_no_worker(spool: Spool) -> None:
    exhausted = """
import queuectl.core.job as jobs
real = jobs.parse
def parse(data, *rest):
    if b"monster" in data:
        raise MemoryError
    return real(data, *rest)
jobs.parse = parse
"""
    spool.enqueue("true", id="monster", priority=9)
    spool.enqueue("true", id="good")
    with patched(spool, exhausted) as process:
        until(lambda: spool.has_ended("good", "completed") or process.process.poll() is not None, what="good has run")
        assert process.process.poll() is None, process.said
        assert state_of(spool, "good") == "completed"


def test_row_56_a_flood_of_output_without_a_line_end_neither_blocks_the_job_nor_fills_the_worker(spool: Spool) -> None:
    """It goes from the job to the file, and the worker never sees it."""
    with worker(spool) as process:
        spool.enqueue("true", id="first")
        completes(spool, "first")
        before = peak(process.pid)
        spool.enqueue("head -c 100000000 /dev/zero", id="flood", timeout=60)
        completes(spool, "flood", 30)
        assert peak(process.pid) - before < 10_000
    assert os.stat(spool.dir("logs") + "flood.1.log").st_size == 100_000_000
    assert len(queuectl(spool, "show", "flood").stdout) < 10_000


def test_row_56_a_log_that_is_written_in_one_go_keeps_the_beginning_and_the_newest(
    spool: Spool, tmp_path: Path
) -> None:
    """It is all there before anybody looks."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    prints = f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; head -c 50000000 /dev/zero; echo ended; > {done}"
    with worker(spool, "--max-log", "4M") as process:
        spool.enqueue(prints, id="flood", timeout=60)
        until(Path(spool.dir("logs") + "flood.1.log").exists, what="it begins")
        with held(process):
            gate.touch()
            until(done.exists, 30, what="it has printed all")
        completes(spool, "flood", 30)
    is_cut(spool, process.said)


def test_row_56_a_log_stays_within_its_bound_however_long_its_job_prints(spool: Spool, tmp_path: Path) -> None:
    """The job prints until several times as much was left out as the log ever held."""
    stop, done, log, most = tmp_path / "stop", tmp_path / "done", Path(spool.dir("logs") + "flood.1.log"), [0]

    def much_is_left_out() -> bool:
        if not log.exists():
            return False
        most[0] = max(most[0], log.stat().st_size)
        with log.open("rb") as file:
            return left_out(os.pread(file.fileno(), MARK, HEAD)) > max(40_000_000, 3 * most[0])

    with worker(spool, "--max-log", "4M") as process:
        prints = f"echo begun; until [ -e {stop} ]; do head -c 100000 /dev/zero; done; echo ended; > {done}"
        spool.enqueue(prints, id="flood", timeout=120)
        until(much_is_left_out, 60, what="three times as much is left out as the log ever held")
        with held(process):  # what is printed in the very moment of a cut may be lost (docs/reliability.md)
            stop.touch()
            until(done.exists, 30, what="it has said its last word")
        completes(spool, "flood", 30)
    is_cut(spool, process.said)


@contextmanager
def held(process: WorkerProcess) -> Iterator[None]:
    """The worker does nothing meanwhile."""
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGCONT)


def is_cut(spool: Spool, said: str) -> None:
    """The log of job flood was cut, and said to be, once."""
    assert "job flood has printed more than 4194304 bytes (setting max-log)" in said
    assert said.count("max-log") == 1
    kept = Path(spool.dir("logs") + "flood.1.log").read_bytes()
    printed = left_out(kept[HEAD : HEAD + MARK])
    assert printed > 40_000_000
    assert len(kept) <= 4 << 20
    assert (kept[:6], kept[-6:]) == (b"begun\n", b"ended\n")
    shown = queuectl(spool, "logs", "--raw", "flood").stdout
    assert shown == kept.decode()
    assert f"{printed} bytes were left out here" in shown


def test_row_56_without_a_bound_all_is_kept(spool: Spool) -> None:
    with worker(spool, "--max-log", "none"):
        spool.enqueue("head -c 20000000 /dev/zero", id="flood")
        completes(spool, "flood", 30)
    assert os.stat(spool.dir("logs") + "flood.1.log").st_size == 20_000_000


def peak(pid: int) -> int:
    """The most memory that a process has used, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
