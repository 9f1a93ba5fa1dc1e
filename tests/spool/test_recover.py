"""Recovery: what a dead worker left is brought to its end, once, and what nobody needs is swept.

It is long because it has a test for each state that a dead worker may leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from queuectl import fsck
from queuectl.core import job as jobs
from queuectl.core.backoff import Policy
from queuectl.core.names import Claim, Waiting
from queuectl.errors import SpoolError
from queuectl.lease import ROLE_CLI, ROLE_WORKER, Census, Lease
from queuectl.logsize import cut_abandoned
from queuectl.recover import Recovery, set_doubles_aside
from queuectl.spool import Spool
from tests.spool.faults import FailingFs
from tests.support import (
    REPOSITORY,
    age,
    at_once,
    body_of,
    die,
    leftovers,
    listing,
    only,
    places,
    recover,
    settle,
    state_of,
    until,
)

STAMP = "20200101T000000.000000Z"


@pytest.fixture
def lease(spool: Spool) -> Lease:
    return Lease(spool, ROLE_WORKER)


def claimed(spool: Spool, lease: Lease, job_id: str = "job1", *, started: bool = True, **members: Any) -> Claim:
    spool.enqueue("true", id=job_id, **members)
    entry = spool.find(job_id)
    assert entry is not None
    claim = spool.claim(entry, lease.worker, lease.next())
    assert claim is not None
    if started:
        os.close(spool.open_log(f"{job_id}.1.log"))
    return claim


def test_what_a_lost_attempt_has_printed_is_kept_within_its_bound_like_any_other(spool: Spool, lease: Lease) -> None:
    """Its worker can't cut it any more, and a disk that it has filled would stay full: nobody could start then."""
    claimed(spool, lease)
    log = Path(spool.dir("logs") + "job1.1.log")
    log.write_bytes(b"begun\n" + b"x" * (3 << 20))
    die(lease)
    with Lease(spool, ROLE_WORKER) as other:
        census = Census(spool, 120.0, other.worker)
        recovery = Recovery(spool, other, Policy, lambda level, text: None, lambda: 1 << 20)
        recovery.run(lambda: census.look(time.monotonic()), time.time_ns())
    assert state_of(spool, "job1") == "failed"
    assert log.stat().st_size <= 1 << 20
    assert log.read_bytes().startswith(b"begun\n")


def test_a_lost_attempt_counts_and_the_job_is_tried_again(spool: Spool, lease: Lease) -> None:
    claim = claimed(spool, lease, priority=3)
    die(lease)
    said = recover(spool)
    (place,) = places(spool, "job1")
    assert place.startswith("failed/")
    assert ".p3.a1.job1.json" in place
    body = body_of(spool, "job1")
    assert body["last_error"] == "lost: its worker died or lost its lease"
    (entry,) = body["history"]
    assert (entry["attempt"], entry["worker"], entry["reason"], entry["log"]) == (1, claim.worker, "lost", "job1.1.log")
    assert listing(spool, "workers") == leftovers(spool) == []
    assert said == [
        "job job1: attempt 1 was lost with its worker: failed",
        f"worker {claim.worker} is dead: its jobs were recovered",
    ]


def test_a_job_that_kills_its_worker_each_time_ends_in_the_dead_letter_queue(spool: Spool) -> None:
    """Row 13."""
    spool.enqueue("true", id="poison", max_retries=2)
    for attempt in (1, 2, 3):
        lease = Lease(spool, ROLE_WORKER)
        entry = spool.find("poison")
        assert entry is not None
        assert spool.claim(entry, lease.worker, lease.next()) is not None
        os.close(spool.open_log(f"poison.{attempt}.log"))
        die(lease)
        recover(spool)
    assert state_of(spool, "poison") == "dead"
    assert [entry["reason"] for entry in body_of(spool, "poison")["history"]] == ["lost"] * 3


def test_what_was_never_started_is_given_back_uncounted(spool: Spool, lease: Lease) -> None:
    claimed(spool, lease, started=False)
    die(lease)
    recover(spool)
    (place,) = places(spool, "job1")
    assert place.startswith("pending/")
    assert ".a0." in place
    assert "history" not in body_of(spool, "job1")


def test_the_claims_of_the_living_are_left_alone(spool: Spool, lease: Lease) -> None:
    claim = claimed(spool, lease)
    recover(spool)
    assert spool.claims() == [claim]
    lease.release()


def test_a_claim_without_a_lease_is_nobodys_and_is_recovered(spool: Spool, lease: Lease) -> None:
    """Row 7: its worker's lease was removed too."""
    claimed(spool, lease)
    die(lease)
    os.unlink(spool.dir("workers") + lease.worker + ".json")
    recover(spool)
    assert state_of(spool, "job1") == "failed"


def test_a_job_whose_cancelling_was_asked_for_is_dead_and_not_tried_again(spool: Spool, lease: Lease) -> None:
    claimed(spool, lease)
    spool.put_request("job1.cancel")
    die(lease)
    recover(spool)
    assert state_of(spool, "job1") == "dead"
    assert body_of(spool, "job1")["last_error"] == "cancelled"
    recover(spool)
    assert listing(spool, "workers") == [], "the request is done with"


def test_a_worker_on_another_host_is_given_its_time(
    spool: Spool, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 32."""
    claim = claimed(spool, lease)
    monkeypatch.setenv("QUEUECTL_PRETEND_HOST", "other")
    with Lease(spool, ROLE_WORKER) as mine:
        census = Census(spool, 120.0, mine.worker)
        recovery = Recovery(spool, mine, Policy, lambda level, text: None)
        for now in (0.0, 60.0, 119.0):
            recovery.run(lambda now=now: census.look(now), time.time_ns())  # type: ignore[misc]
            assert spool.claims() == [claim]
        recovery.run(lambda: census.look(120.0), time.time_ns())
    assert state_of(spool, "job1") == "failed"
    assert not lease.renew(), "its holder learns that it was taken for dead"
    die(lease)


RECOVER = """
import sys
sys.path.insert(0, sys.argv[2])
from queuectl import Spool
from tests.support import recover
spool = Spool(sys.argv[1], durability="none")
input()
recover(spool)
"""


def test_racing_recoverers_are_harmless(spool: Spool, lease: Lease) -> None:
    """R7."""
    for n in range(40):
        claimed(spool, lease, f"job{n}", started=n % 4 != 0)
    die(lease)
    at_once(RECOVER, [[spool.root, str(REPOSITORY)]] * 3)
    recover(spool)
    for n in range(40):
        assert state_of(spool, f"job{n}") == ("failed" if n % 4 else "pending")
        assert len(body_of(spool, f"job{n}").get("history", [])) == (1 if n % 4 else 0)
    assert leftovers(spool) == listing(spool, "workers") == []


def test_recovery_that_the_disk_stopped_goes_on_later(tmp_path: Path) -> None:
    fs = FailingFs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    for k in range(1, 12):
        dead = Lease(spool, ROLE_WORKER)
        claimed(spool, dead, f"job{k}")
        die(dead)
        with Lease(spool, ROLE_WORKER) as mine:
            census = Census(spool, 120.0, mine.worker)
            recovery = Recovery(spool, mine, Policy, lambda level, text: None)
            fs.arm(k, 5, kinds=("rename", "open", "write"))
            try:
                recovery.run(lambda: census.look(0.0), time.time_ns())  # noqa: B023
            except SpoolError:
                fs.heal()
                recovery.run(lambda: census.look(0.0), time.time_ns())  # noqa: B023
            fs.heal()
            assert state_of(spool, f"job{k}") == "failed"
            assert len(body_of(spool, f"job{k}")["history"]) == 1


# -- orphans (R8) -----------------------------------------------------------------------------------------------------


def test_what_a_dead_worker_left_running_is_killed_before_its_job_goes_back(spool: Spool, lease: Lease) -> None:
    """Row 3. Only what carries a claim of that worker dies: not another's job, and nobody without a mark."""
    mine, other = claimed(spool, lease), Claim(STAMP, 0, 1, "job2", "another-worker", 1)

    def start(claim: Claim | None, code: str = "sleep 60") -> subprocess.Popen[bytes]:
        mark = {"QUEUECTL_CLAIM": claim.key} if claim else {}
        return subprocess.Popen(["sh", "-c", code], env={**os.environ, **mark}, start_new_session=True)

    orphan, stubborn = start(mine, "trap '' TERM; sleep 60 & sleep 60"), start(mine)
    innocent, others = start(None), start(other)
    try:
        until(lambda: len(os.listdir(f"/proc/{orphan.pid}/task")) > 0, what="the orphans run")
        die(lease)
        recover(spool)
        assert {orphan.wait(10), stubborn.wait(10)} == {-signal.SIGKILL}
        assert innocent.poll() is None
        assert others.poll() is None
        assert state_of(spool, "job1") == "failed"
    finally:
        for process in (orphan, stubborn, innocent, others):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_an_orphan_that_names_the_spool_by_another_path_is_killed_and_a_copys_is_not(
    spool: Spool, lease: Lease, tmp_path: Path
) -> None:
    """One worker came by a link, the next doesn't. A copy (a backup) has the same names, but other processes."""
    mine = claimed(spool, lease)
    (tmp_path / "link").symlink_to(spool.root)
    (tmp_path / "copy").mkdir()

    def start(place: str) -> subprocess.Popen[bytes]:
        marks = {"QUEUECTL_CLAIM": mine.key, "QUEUECTL_SPOOL": str(tmp_path / place)}
        return subprocess.Popen(["sleep", "60"], env={**os.environ, **marks}, start_new_session=True)

    by_link, of_copy = start("link"), start("copy")
    try:
        die(lease)
        recover(spool)
        assert by_link.wait(10) == -signal.SIGKILL
        assert of_copy.poll() is None
    finally:
        for process in (by_link, of_copy):
            process.kill()
            process.wait()


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_that_is_larger_than_a_dropped_file_may_be_is_recovered_like_any_other(
    spool: Spool, lease: Lease
) -> None:
    """A job of nearly the largest size grows by its history."""
    claim = claimed(spool, lease, payload={"text": "x" * (jobs.LARGEST_FILE - 200)})
    job = spool.read_claim(claim)
    assert job is not None
    entry = {"attempt": 1, "exit_code": 0, "worker": "w" * 200}
    data = jobs.settled(job, claim, 1, time.time_ns(), entry, "", 0)
    assert len(data) > jobs.LARGEST_FILE
    Path(spool.dir(".tmp") + f"{claim.key}=completed.json").write_bytes(data)
    die(lease)
    recover(spool)
    assert state_of(spool, "job1") == "completed"


def test_fsck_recovers_like_a_worker_with_the_logs_bound(spool: Spool, lease: Lease) -> None:
    claimed(spool, lease)
    log = Path(spool.dir("logs") + "job1.1.log")
    log.write_bytes(b"x" * (3 << 20))
    die(lease)
    fsck.repair(spool, 120.0, Policy(), 1 << 20, lambda level, text: None)
    assert state_of(spool, "job1") == "failed"
    assert log.stat().st_size <= 1 << 20


# -- what is swept ----------------------------------------------------------------------------------------------------


def test_the_sweep_takes_what_nobody_needs_and_nothing_else(spool: Spool, lease: Lease) -> None:
    tmp, workers = spool.dir(".tmp"), spool.dir("workers")
    gone = Waiting(STAMP, 0, 0, "gone").claimed_by("dead-worker", 1)
    kept = [
        f"{lease.worker}.1=spare",
        f"{STAMP}.p0.a1.mine@{lease.worker}.5=spent",
        f"{STAMP}.p0.a1.mine@{lease.worker}.6=completed.json",
    ]
    for name in (*kept, "young.1=draft", "dead-worker.1=spare", gone.spent, f"{gone.key}=dead.json"):
        Path(tmp + name).write_text("x")
    spool.enqueue("true", id="waits")
    for name in ("dead-worker.stop", f"{lease.worker}.stop", "waits.cancel", "ended.cancel"):
        Path(workers + name).write_text("{}")
    recover(spool)
    published = listing(spool, "dead")
    assert published == ["gone.json"], "a spent claim with its record is finished"
    assert leftovers(spool) == sorted([*kept, "young.1=draft"])
    theirs = [f"{lease.worker}.json", f"{lease.worker}.stop", "waits.cancel"]
    assert listing(spool, "workers") == sorted([*theirs, "dead-worker.stop"]), "it may not be dead, and come back"
    setattr(spool, "request_age", lambda name: 1e9)  # noqa: B010
    recover(spool)
    assert listing(spool, "workers") == sorted(theirs)
    age(spool)
    recover(spool)
    assert leftovers(spool) == sorted(kept)
    lease.release()


def test_the_record_of_a_dead_worker_whose_claim_is_gone_is_swept(spool: Spool) -> None:
    claim = Waiting(STAMP, 0, 0, "gone").claimed_by("dead-worker", 1)
    Path(spool.dir(".tmp") + f"{claim.key}=completed.json").write_text('{"command": "true"}')
    recover(spool)
    assert leftovers(spool) == []
    assert listing(spool, "completed") == []


# -- one id in two places (R13, row 11) -------------------------------------------------------------------------------

W1, W2 = (f"{STAMP}.p0.a{n}.job1.json" for n in (1, 2))
C2 = f"{STAMP}.p0.a2.job1@somebody.1.json"


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (f"pending/{W1}", f"processing/{C2}", f"processing/{C2}"),
        (f"failed/{W2}", f"processing/{C2}", f"processing/{C2}"),
        (f"failed/{W1}", f"pending/{W2}", f"pending/{W2}"),
        (f"processing/{C2}", "completed/job1.json", "completed/job1.json"),
        (f"failed/{W1}", "dead/job1.json", "dead/job1.json"),
        (f"pending/{STAMP}.p0.a3.job1.json", "dead/job1.json", f"pending/{STAMP}.p0.a3.job1.json"),
    ],
)
def test_of_two_files_of_one_job_the_stronger_stays_and_the_other_is_set_aside(
    spool: Spool, first: str, second: str, kept: str
) -> None:
    for place in (first, second):
        body = {"command": place.partition("/")[0], "id": "job1", "attempts": 2}
        Path(spool.root, place).write_text(json.dumps(body))
    said: list[str] = []
    assert set_doubles_aside(spool, lambda level, text: said.append(text)) == 1
    assert places(spool, "job1") == [kept]
    ((name, reason),) = spool.rejected()
    assert reason == said[0] == f"job job1 lay in two places after a crash; {kept} was kept"
    other = first if kept == second else second
    assert f'"{other.partition("/")[0]}"'.encode() in Path(spool.dir("dead") + name).read_bytes()
    assert set_doubles_aside(spool, lambda level, text: None) == 0


def test_jobs_in_one_place_and_foreign_files_are_no_doubles(spool: Spool) -> None:
    for n in range(3):
        spool.enqueue("true", id=f"job{n}")
        Path(spool.dir("pending") + f"foreign{n}.json").write_text("{}")
    with Lease(spool, ROLE_CLI) as lease:
        claimed(spool, lease, "job9")
        assert set_doubles_aside(spool, lambda level, text: None) == 0
    assert len(listing(spool, "pending")) == 6


def test_a_job_that_moves_while_doubles_are_looked_for_is_none(spool: Spool, lease: Lease) -> None:
    """The claims are listed, then the job is settled, then failed/ is listed: it was seen twice, but is there once."""
    claim = claimed(spool, lease)

    class Busy(Spool):
        def scan(self, directory: str) -> Any:
            names = list(super().scan(directory))
            if directory == "processing" and spool.claims() == [claim]:
                settle(spool, claim, "failed")
            return iter(names)

    busy = Busy(spool.root, durability="none")
    assert set_doubles_aside(busy, lambda level, text: None) == 0
    assert state_of(spool, "job1") == "failed"
    assert only(spool, "failed").id == "job1"
    lease.release()


def test_of_two_files_the_one_whose_history_has_gone_further_stays_though_the_clock_was_set_back(spool: Spool) -> None:
    """R11: a recorded outcome was undone by what the same job had been an hour later, by the wrong clock."""
    history = [{"attempt": number, "exit_code": 1} for number in (1, 2)]
    body = {"command": "true", "id": "job1", "created_at": "2026-11-22T09:00:00Z", "attempts": 2}
    late, early = "2026-11-22T12:00:00Z", "2026-11-22T11:00:00Z"
    Path(spool.dir("failed"), W1).write_text(json.dumps(body | {"history": history[:1], "updated_at": late}))
    Path(spool.dir("completed"), "job1.json").write_text(json.dumps(body | {"history": history, "updated_at": early}))
    assert set_doubles_aside(spool, lambda level, text: None) == 1
    assert places(spool, "job1") == ["completed/job1.json"]


def test_a_log_that_cannot_be_cut_stops_no_recovery(spool: Spool, tmp_path: Path) -> None:
    """Somebody has moved a large log to another disk, and left a link."""
    lease = Lease(spool, ROLE_WORKER)
    claimed(spool, lease, "job1")
    log = Path(spool.dir("logs"), "job1.1.log")
    log.rename(tmp_path / "moved")
    log.symlink_to(tmp_path / "moved")
    die(lease)
    census = Census(spool, 120.0)
    cut_abandoned(spool, census, 10)
    with Lease(spool, ROLE_WORKER) as mine:
        said: list[str] = []
        recovery = Recovery(spool, mine, Policy, lambda level, text: said.append(text), lambda: 10)
        recovery.run(lambda: census.look(0.0), time.time_ns())
    assert state_of(spool, "job1") == "failed"
    assert any(text.startswith("Could not cut the log") for text in said)
