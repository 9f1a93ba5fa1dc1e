"""Rows 31, 32 and 83 to 87: clocks that are set, far off, in other zones, or that go on while a machine sleeps."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from queuectl import heart
from queuectl.core.backoff import Policy
from queuectl.core.times import SECOND
from queuectl.heart import Heart
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.lookout import SLOW_SCAN, Lookout
from queuectl.recover import Recovery
from queuectl.spool import Spool
from tests.faults.patched import completes, patched
from tests.support import REPOSITORY, body_of, listing, queuectl, state_of, until, worker

HOUR = 3600
SHIFT = """
real_ns, real_s = time.time_ns, time.time
def shift():
    try:
        with open({path!r}) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0
time.time_ns = lambda: max(0, real_ns() + int(shift() * 1e9))
time.time = lambda: max(0.0, real_s() + shift())
"""


class Hanging:
    """A lease on a server that doesn't answer any more."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    def renew(self) -> bool:
        self.asked.set()
        self.answer.wait(20)
        return True


def test_row_31_and_32_a_worker_whose_heartbeat_hangs_kills_its_jobs_while_it_hangs() -> None:
    lease, fenced = Hanging(), threading.Event()
    beating = Heart(cast(Lease, lease), 0.01, lambda: None)
    beating.fence_after(0.3, fenced.set)
    beating.start()
    try:
        assert lease.asked.wait(5)
        assert fenced.wait(5)
        assert beating.is_overdue(), "it starts nothing more"
    finally:
        lease.answer.set()
        beating.stop()


def test_row_86_after_a_sleep_of_the_machine_the_jobs_are_killed_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock that is looked at goes on while the machine is suspended."""
    assert 0 <= heart.clock() - time.clock_gettime(time.CLOCK_BOOTTIME) + 1 <= 1
    asleep, fenced, lease = threading.Event(), threading.Event(), Hanging()
    real = heart.clock
    monkeypatch.setattr(heart, "clock", lambda: real() + (HOUR if asleep.is_set() else 0))
    beating = Heart(cast(Lease, lease), 60.0, lambda: None)
    beating.fence_after(0.3, fenced.set)
    asleep.set()
    beating.start()
    try:
        assert fenced.wait(5)
    finally:
        beating.stop()


@pytest.mark.parametrize("step", [-HOUR, 24 * HOUR])
def test_row_83_a_clock_that_is_set_ends_no_running_job_and_takes_no_lease(
    spool: Spool, tmp_path: Path, step: int
) -> None:
    clock, go = tmp_path / "clock", tmp_path / "go"
    with patched(spool, SHIFT.format(path=str(clock))) as process, Lease(spool, ROLE_WORKER) as other:
        spool.enqueue(f"until [ -e {go} ]; do sleep 0.01; done", id="runs", timeout=600)
        until(lambda: state_of(spool, "runs") == "processing", what="the job runs")
        clock.write_text(str(step))
        spool.enqueue("true", id="wakes-it")
        go.touch()
        completes(spool, "runs")
        assert other.renew()
        assert process.end() == 0
    assert [entry.get("exit_code") for entry in body_of(spool, "runs")["history"]] == [0]


def test_row_83_what_a_step_of_the_clock_makes_due_is_seen_at_the_next_scan_at_the_latest(spool: Spool) -> None:
    clock = [time.time_ns()]
    lookout = Lookout(spool, network=False, poll_interval=1.0, wall=lambda: clock[0], say=lambda *_: None)
    try:
        with Lease(spool, ROLE_WORKER) as lease:
            recovery = Recovery(spool, lease, Policy, lambda *_: None)
            lookout.attach(lease, Census(spool, 120.0, lease.worker), recovery)
            lookout.watch()
            spool.enqueue("true", id="one", run_at="2040-01-01T00:00:00Z")
            now = time.monotonic()
            lookout.turn(now, known=set, stopping=False)
            assert lookout.next_job(0) is None
            clock[0] = 2_300_000_000 * SECOND  # in the year 2042
            when = lookout.next_look(stopping=False)
            assert when is not None
            assert when <= time.monotonic() + SLOW_SCAN
            lookout.turn(now + SLOW_SCAN, known=set, stopping=False)
            found = lookout.next_job(0)
            assert found is not None
            assert found.id == "one"
    finally:
        lookout.wakeup.stop()


def test_row_83_what_was_due_before_the_clock_was_set_back_waits_again(spool: Spool, tmp_path: Path) -> None:
    clock, go = tmp_path / "clock", tmp_path / "go"
    clock.write_text(str(10 * 24 * HOUR))
    with patched(spool, SHIFT.format(path=str(clock))) as process:
        spool.enqueue(f"touch {tmp_path}/runs; until [ -e {go} ]; do sleep 0.01; done", id="first", priority=9)
        until((tmp_path / "runs").exists, what="the one slot is taken")
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        spool.enqueue("true", id="tomorrow", run_at=tomorrow.isoformat(), priority=5)
        spool.enqueue("true", id="today")
        until(lambda: len(listing(spool, "pending")) == 2, what="both wait, both due")
        clock.write_text("0")
        go.touch()
        completes(spool, "today")
        assert state_of(spool, "tomorrow") == "pending"
        assert process.end() == 0


@pytest.mark.parametrize("zone", ["EST5EDT", "IST-5:30", "right/UTC", "Nowhere/Atall", ""])
def test_row_84_zones_of_enqueuer_and_worker_have_no_say(spool: Spool, zone: str) -> None:
    assert queuectl(spool, "enqueue", "--id", "now", "true", TZ="CET-1CEST,M3.5.0,M10.5.0/3").returncode == 0
    assert queuectl(spool, "enqueue", "--id", "leap", "--run-at", "2016-12-31T23:59:59Z", "true").returncode == 0
    with worker(spool, TZ=zone) as process:
        completes(spool, "now")
        completes(spool, "leap")
        assert process.end() == 0


def test_row_85_with_a_clock_that_was_never_set_it_says_so_and_nobody_is_taken_for_dead(
    spool: Spool, tmp_path: Path
) -> None:
    (tmp_path / "clock").write_text(str(-time.time()))
    with Lease(spool, ROLE_WORKER) as other, patched(spool, SHIFT.format(path=str(tmp_path / "clock"))) as process:
        told = "the clock says that it is the year 1970; jobs that wait for a later time will wait"
        until(lambda: told in process.said, what="it says so")
        spool.enqueue("true", id="held")
        (tmp_path / "early").write_text('{"command": "true", "id": "early"}')
        (tmp_path / "early").rename(spool.dir("pending") + "19700101T000000.000000Z.p0.a0.early.json")
        completes(spool, "early")
        assert state_of(spool, "held") == "pending", "it is for later by that clock; it waits, and is kept"
        assert other.renew()
        assert process.end() == 0


def test_row_85_with_a_clock_far_ahead_nothing_is_started_until_it_is_set(spool: Spool, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text(str(4_102_444_801 - time.time()))
    spool.enqueue("true", id="now")
    spool.enqueue("true", id="planned", run_at="2090-01-01T00:00:00Z")
    with Lease(spool, ROLE_WORKER) as other, patched(spool, SHIFT.format(path=str(clock))) as process:
        until(lambda: "the year 2100; no job is started until it is set" in process.said, what="it says so")
        assert len(listing(spool, "pending")) == 2
        clock.write_text("0")
        completes(spool, "now")
        assert state_of(spool, "planned") == "pending"
        assert "clock: the trouble is over" in process.said
        assert process.said.count("the year 2100") == 1
        assert other.renew()
        assert process.end() == 0


def test_row_87_watchdog_is_asked_for_in_a_version_that_tells_of_overflows() -> None:
    wanted = re.findall(r'"(watchdog[^"]*)"', (REPOSITORY / "pyproject.toml").read_text())
    assert wanted == ["watchdog>=7.1,<8"]
