"""Rows 2 to 23: what crashes leave behind, and races that no crash is needed for."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl.lease import ROLE_WORKER, Lease, boot_id
from queuectl.spool import Settlement, Spool
from queuectl.wakeup import Wakeup
from tests.faults.patched import completes, patched
from tests.support import (
    body_of,
    drop,
    listing,
    only,
    places,
    queuectl,
    recover,
    settlement,
    state_of,
    until,
    worker,
)


def claimed(spool: Spool, lease: Lease) -> Any:
    spool.enqueue("true", id="one")
    claim = spool.claim(only(spool), lease.worker, lease.next())
    assert claim is not None
    return claim


def test_row_02_a_worker_dies_between_claim_and_start_and_the_job_is_run_by_another(
    spool: Spool, tmp_path: Path
) -> None:
    dies = "def spawn(*_, **__): os.kill(os.getpid(), 9)\nos.posix_spawn = spawn"
    with patched(spool, dies, "--backoff-base", "0") as victim:
        spool.enqueue(f"echo run >> {tmp_path}/runs", id="one")
        assert victim.process.wait(10) == -9
    (left,) = places(spool, "one")
    assert left.startswith("processing/")
    with worker(spool, "--backoff-base", "0"):
        completes(spool, "one")
    assert (tmp_path / "runs").read_text() == "run\n"
    assert [entry["attempt"] for entry in body_of(spool, "one")["history"]] == [1, 2]


def test_row_08_a_job_that_is_killed_for_its_memory_is_told_by_signal_9_and_tried_again(spool: Spool) -> None:
    """The kernel's killer of processes sends what `kill -9` sends; which process it takes cannot be told apart."""
    spool.enqueue('[ "$QUEUECTL_ATTEMPT" = 2 ] || kill -9 $$', id="one", backoff_base=0)
    with worker(spool):
        completes(spool, "one")
    assert [entry.get("signal") for entry in body_of(spool, "one")["history"]] == [9, None]


@pytest.mark.parametrize(("state", "name"), [("pending", "20200101T000000.000000Z.p0.a0.one.json"),
                                             ("failed", "20200101T000000.000000Z.p0.a1.one.json")])  # fmt: skip
def test_row_11_of_two_files_of_one_job_the_ended_one_stays_and_the_command_is_not_run_again(
    spool: Spool, tmp_path: Path, state: str, name: str
) -> None:
    spool.enqueue(f"echo run >> {tmp_path}/runs", id="one")
    with worker(spool):
        completes(spool, "one")
    ended = body_of(spool, "one")
    earlier = {**ended, "history": [], "attempts": 0, "updated_at": "2020-01-01T00:00:00Z"}
    Path(spool.dir(state) + name).write_text(json.dumps(earlier))
    # A crash of the host is what leaves such a thing; it leaves a lease of an earlier boot too.
    Path(spool.dir("workers") + "gone-1-0000000000.json").write_text(json.dumps({"boot_id": "earlier", "pid": 1}))
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert places(spool, "one") == ["completed/one.json"]
    assert body_of(spool, "one") == ended
    assert [kept for kept, _ in spool.rejected()] == [f"{name}.rejected"]
    assert (tmp_path / "runs").read_text() == "run\n"


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\0" * 10 + b'{"command": "true"}'])
def test_row_12_a_job_file_that_a_power_cut_has_emptied_is_set_aside_and_not_run(spool: Spool, content: bytes) -> None:
    drop(spool, "20200101T000000.000000Z.p0.a0.torn.json", content)
    spool.enqueue("true", id="good")
    with worker(spool) as process:
        completes(spool, "good")
        until(lambda: list(spool.rejected()), what="it is set aside")
        assert process.end() == 0
    ((kept, _),) = spool.rejected()
    assert Path(spool.dir("dead") + kept).read_bytes() == content
    assert (places(spool, "torn"), listing(spool, "logs")) == ([], [])


@pytest.mark.parametrize("boot", ["this", "earlier"])
def test_row_14_an_innocent_process_that_got_the_pid_of_a_dead_worker_lives_on(spool: Spool, boot: str) -> None:
    innocent = subprocess.Popen(["sleep", "1000"])
    try:
        dead = f"host-{innocent.pid}-0000000000"
        about = {"worker": dead, "pid": innocent.pid, "boot_id": boot_id() if boot == "this" else "earlier"}
        Path(spool.dir("workers") + f"{dead}.json").write_text(json.dumps(about))
        spool.enqueue("true", id="one")
        assert spool.claim(only(spool), dead, 1) is not None
        recover(spool)
        assert state_of(spool, "one") in ("pending", "failed")
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


class Interrupted:
    """An os in which something happens between a rename's ENOENT and the look that follows it."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def lstat(self, path: str) -> os.stat_result:
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()
        return os.lstat(path)


def test_row_17_a_loser_that_is_held_up_between_enoent_and_its_look_has_lost(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER) as winner, Lease(spool, ROLE_WORKER) as loser:
        spool.enqueue("true", id="one")
        entry = only(spool)
        claim = spool.claim(entry, winner.worker, winner.next())
        assert claim is not None
        back = settlement(spool, claim, "pending")
        held_up = Spool(spool.root, durability="none", fs=Interrupted(lambda: spool.settle([back], [])))
        # Meanwhile the winner gives the job back: it waits again, but under another name.
        assert held_up.claim(entry, loser.worker, loser.next()) is None
        assert state_of(spool, "one") == "pending"
        assert only(spool).name != entry.name


def test_row_21_two_processes_with_one_workers_id_leave_one_file_of_the_job(spool: Spool) -> None:
    """A fork has the parent's lease, claims and names, as a copy of a virtual machine would. Neither is told."""
    with Lease(spool, ROLE_WORKER) as lease:
        claim = claimed(spool, lease)
        one = settlement(spool, claim, "completed")
        pid = os.fork()
        if pid == 0:
            try:
                spool.settle([one], [])
            finally:
                os._exit(one.step)
        spool.settle([one], [])
        steps = {one.step, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
        assert Settlement.PUBLISHED in steps
    assert state_of(spool, "one") == "completed"
    assert body_of(spool, "one")["history"] == [{"attempt": 1, "reason": "a test"}]


def test_row_21_a_lease_has_one_holder(spool: Spool) -> None:
    """Whoever takes a lease's name from its holder ends that holder's claim to it."""
    first = Lease(spool, ROLE_WORKER)
    assert first.renew()
    os.close(spool.publish_lease(first.worker, b"{}"))
    assert not first.renew()
    first.release()


def test_row_23_what_is_dropped_after_the_watch_began_wakes_however_late_the_scan_is(spool: Spool) -> None:
    """Arm first, then scan: the hint of a file that came between the two is still there."""
    wakeup = Wakeup({"pending": spool.dir("pending")})
    try:
        assert wakeup.start()
        assert wakeup.take() == ([], True), "what was before the watch is unknown: a scan is asked for"
        drop(spool, "x.json", {"command": "true"})
        assert select.select([wakeup.fileno()], [], [], 5)[0]
        assert {hint.name for hint in wakeup.take()[0]} == {"x.json"}
    finally:
        wakeup.stop()
