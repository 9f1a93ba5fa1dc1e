"""Rows 88 to 92: signals at bad moments, jobs that leave zombies, terminals and pipes that go away."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.faults.patched import completes, patched
from tests.support import body_of, listing, state_of, until, worker


def test_row_88_signals_that_mean_nothing_to_a_worker_change_nothing(spool: Spool) -> None:
    with worker(spool) as process:
        for number in (signal.SIGWINCH, signal.SIGPIPE, signal.SIGCHLD, signal.SIGURG, signal.SIGCONT):
            os.kill(process.pid, number)
        spool.enqueue("true", id="one")
        completes(spool, "one")
        assert "stopping" not in process.said
        assert process.end() == 0
    assert (listing(spool, "workers"), listing(spool, "processing"), listing(spool, ".tmp")) == ([], [], [])


@pytest.mark.parametrize("where", ["/.tmp", "/processing", "/completed"])
def test_row_89_a_signal_in_the_middle_of_a_sync_waits_for_its_end(tmp_path: Path, where: str) -> None:
    spool = Spool(tmp_path / "spool", durability="fsync")
    gate, obeyed = tmp_path / "gate", tmp_path / "obeyed"
    slow = f"""
from queuectl.worker import Worker
order, real = Worker._order_stop, os.fsync
def note(self, **how):
    order(self, **how)
    open({str(obeyed)!r}, "w").close()
Worker._order_stop = note
def fsync(fd):
    if os.readlink(f"/proc/self/fd/{{fd}}").endswith("spool{where}"):
        gate({str(gate)!r})
    return real(fd)
os.fsync = fsync
"""
    with patched(spool, slow) as process:
        spool.enqueue("true", id="one")
        until((tmp_path / "gate.reached").exists, what=f"the sync of {where} hangs")
        os.kill(process.pid, signal.SIGTERM)
        until(obeyed.exists, what="the signal is obeyed while the sync hangs")
        gate.touch()
        assert process.process.wait(15) == 0
    assert "Traceback" not in process.said
    assert state_of(spool, "one") == ("pending" if where == "/processing" else "completed")
    assert body_of(spool, "one")["attempts"] == (0 if where == "/processing" else 1)
    assert (listing(spool, "workers"), listing(spool, "processing"), listing(spool, ".tmp")) == ([], [], [])


@pytest.mark.parametrize(
    "stubborn",
    ["(exit 0) & exec sleep 1000",  # the parent of a zombie
     "sh -c 'kill -STOP $$' & exec sleep 1000",
     "kill -STOP $$"],
)  # fmt: skip
def test_row_91_a_job_with_a_zombie_or_a_stopped_process_ends_at_its_timeout(spool: Spool, stubborn: str) -> None:
    spool.enqueue(stubborn, id="one", timeout=0.2, max_retries=0)
    with worker(spool) as process:
        until(lambda: spool.has_ended("one", "dead"), what="it is ended")
        assert process.end() == 0
    assert body_of(spool, "one")["last_error"] == "timeout: after 0.2 s"


def test_row_92_a_worker_whose_terminal_hangs_up_lets_its_job_end_and_records_it(spool: Spool, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    session = "import fcntl, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with patched(spool, session, **streams) as process:
        os.close(theirs)
        spool.enqueue(f"touch {tmp_path}/runs; until [ -e {tmp_path}/go ]; do sleep 0.01; done", id="one")
        until((tmp_path / "runs").exists, what="the job runs")
        os.close(ours)  # the kernel sends SIGHUP, and every write to the terminal fails from now on
        spool.enqueue("true", id="two")
        (tmp_path / "go").touch()
        assert process.process.wait(15) == 0
    assert (state_of(spool, "one"), listing(spool, "workers")) == ("completed", [])


def test_row_92_a_worker_to_whom_nobody_listens_works_on(spool: Spool) -> None:
    ours, theirs = os.pipe()
    with patched(spool, "", stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        os.close(ours)
        for name in ("one", "two"):
            spool.enqueue("true", id=name)
            completes(spool, name)
        assert process.end() == 0
