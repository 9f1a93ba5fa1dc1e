"""Workers are killed with -9; others bring their jobs to an end. Nothing is lost, nothing runs twice at once."""

from __future__ import annotations

import os
import signal
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from queuectl.spool import Spool
from tests.crash.witness import Witness
from tests.support import (
    STATES,
    body_of,
    leftovers,
    listing,
    queuectl,
    state_of,
    until,
    worker,
)  # fmt: skip


def test_a_hundred_jobs_survive_the_death_of_their_worker(spool: Spool, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness")
    command = witness.command("sleep 0.05")
    ids = spool.enqueue_many([{"command": command, "backoff_base": 0} for _ in range(100)])
    with worker(spool, "--count", "4") as first:
        until(lambda: witness.running() == 4 and len(listing(spool, "completed")) > 10, what="work is under way")
        first.kill()
    assert len(listing(spool, "processing")) >= 4
    assert queuectl(spool, "worker", "start", "--count", "4", "--until-empty", limit=60).returncode == 0
    assert {state: len(listing(spool, state)) for state in STATES} == {
        "pending": 0, "processing": 0, "completed": 100, "failed": 0, "dead": 0,
    }  # fmt: skip
    witness.check(ids)
    assert leftovers(spool) == []
    assert listing(spool, "workers") == []
    lost = [job_id for job_id in ids if len(body_of(spool, job_id)["history"]) == 2]
    assert 4 <= len(lost) <= 8, "only what had begun counts as an attempt"
    assert {body_of(spool, job_id)["attempts"] for job_id in lost} == {2}
    assert all(body_of(spool, job_id)["history"][0]["reason"] == "lost" for job_id in lost)


def test_another_worker_has_the_jobs_running_again_within_half_a_second_of_the_kill(
    spool: Spool, tmp_path: Path
) -> None:
    """Twenty times: the holder of four running jobs is killed, and another worker on the host has all four. Each run
    looks first whether a process of its group of any earlier run is alive."""
    command = f"""
for other in $(cat {tmp_path}/pids.$QUEUECTL_JOB_ID 2>/dev/null); do
    kill -0 $other 2>/dev/null && grep -q "[.]$QUEUECTL_JOB_ID@" /proc/$other/environ 2>/dev/null &&
        echo "$QUEUECTL_CLAIM: $other is alive" >> {tmp_path}/overlaps
done
date +%s.%N >> {tmp_path}/starts.$QUEUECTL_JOB_ID
sleep 1000 &
echo "$$ $!" >> {tmp_path}/pids.$QUEUECTL_JOB_ID
wait
"""
    ids = [spool.enqueue(command, id=f"j{n}", backoff_base=0, max_retries=1000) for n in range(4)]

    def runs(name: str) -> list[list[str]]:
        paths = [tmp_path / f"{name}.{job_id}" for job_id in ids]
        return [path.read_text().splitlines() if path.exists() else [] for path in paths]

    times = []
    with ExitStack() as stack:
        holder = stack.enter_context(worker(spool, "--count", "4"))
        for number in range(1, 21):
            until(lambda number=number: all(len(of) == number for of in runs("pids")), what="all four run")
            other = stack.enter_context(worker(spool, "--count", "4"))
            killed = time.time()
            holder.kill()
            until(lambda number=number: all(len(of) == number + 1 for of in runs("starts")), 30, what="all four again")
            times.append(max(float(of[-1]) for of in runs("starts")) - killed)
            holder = other
        until(lambda: all(len(of) == 21 for of in runs("pids")), what="all four run")
        for job_id in ids:
            queuectl(spool, "cancel", job_id)
    print(f"taken over after {statistics.median(times):.3f} s (median of 20), {max(times):.3f} s at most")
    assert not (tmp_path / "overlaps").exists(), (tmp_path / "overlaps").read_text()
    assert statistics.median(times) <= 0.5


def test_the_orphans_of_a_killed_worker_are_killed_even_without_their_mark(spool: Spool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    spool.enqueue(f"echo $$ >> {pids}; exec env -i sleep 1000", id="one", backoff_base=0, max_retries=1)
    with worker(spool) as first:
        until(lambda: pids.exists() and pids.read_text() and is_sleep(int(pids.read_text())),
              what="the job runs without its mark")  # fmt: skip
        orphan = int(pids.read_text())
        first.kill()
        assert is_sleep(orphan)
        with worker(spool):
            until(lambda: len(pids.read_text().split()) == 2, what="the job runs again")
            assert not is_sleep(orphan)
            queuectl(spool, "cancel", "one")


def is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
    except OSError:
        return False


def test_a_job_that_kills_its_worker_ends_in_the_dead_letter_queue(spool: Spool) -> None:
    spool.enqueue("kill -9 $PPID; sleep 1000", id="poison", max_retries=2, backoff_base=0)
    spool.enqueue("true", id="harmless", priority=-1)
    for _ in range(6):
        if spool.has_ended("poison", "dead") and spool.has_ended("harmless", "completed"):
            break
        queuectl(spool, "worker", "start", "--until-empty")
    assert state_of(spool, "poison") == "dead"
    assert [entry["reason"] for entry in body_of(spool, "poison")["history"]] == ["lost"] * 3
    assert state_of(spool, "harmless") == "completed"


def test_all_workers_are_killed_and_one_is_started(spool: Spool, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "witness")
    work = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    ids = spool.enqueue_many([{"command": witness.command(work), "backoff_base": 0} for _ in range(12)])
    with worker(spool, "--count", "2") as a, worker(spool, "--count", "2") as b, worker(spool, "--count", "2") as c:
        until(lambda: witness.running() == 6, what="all slots are busy")
        for victim in (a, b, c):
            os.kill(victim.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert queuectl(spool, "worker", "start", "--count", "6", "--until-empty", limit=60).returncode == 0
    assert len(listing(spool, "completed")) == 12
    witness.check(ids)


def test_a_frozen_worker_of_another_host_loses_its_lease_and_its_result(spool: Spool, tmp_path: Path) -> None:
    """Two hosts, as far as leases can tell: what one host may not see of the other is taken away."""
    times = ("--heartbeat", "0.2", "--stale-after", "1.5", "--poll-interval", "0.1")
    marks = tmp_path / "marks"
    spool.enqueue(f"echo $QUEUECTL_ATTEMPT >> {marks}; sleep 0.7", id="one", backoff_base=0)
    with worker(spool, *times, QUEUECTL_PRETEND_HOST="alpha") as alpha:
        until(lambda: marks.exists() and marks.read_text(), what="the job runs on alpha")
        os.kill(alpha.pid, signal.SIGSTOP)
        try:
            with worker(spool, *times, QUEUECTL_PRETEND_HOST="beta"):
                until(lambda: spool.has_ended("one", "completed"), 20, what="beta has run the job")
        finally:
            os.kill(alpha.pid, signal.SIGCONT)
        until(lambda: "was lost" in alpha.said, what="alpha learns that its lease is lost")
        assert alpha.end() == 0
    assert marks.read_text().split() == ["1", "2"]
    history = body_of(spool, "one")["history"]
    assert [(entry["attempt"], entry.get("reason"), entry.get("exit_code")) for entry in history] == [
        (1, "lost", None), (2, None, 0),
    ]  # fmt: skip
    assert state_of(spool, "one") == "completed"
