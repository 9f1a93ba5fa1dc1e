"""A spool against a model in plain Python: whatever is done to it in whatever order, with crashes, pauses, lost replies
and stale handles in between, each job is in the one place where the model has it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from queuectl import actions, orphans
from queuectl.core.job import Job
from queuectl.core.names import Claim
from queuectl.errors import IdTaken
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.spool import Settlement, Spool
from tests.support import STATES, age, drop, leftovers, listing
from tests.sweep.check import files_by_id
from tests.sweep.operations import recover, settlement

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
WAITING = {"pending", "failed"}
ENDED = {"completed", "dead"}


class Liar:
    """An os whose next renames are done and then answered with ENOENT, as by an NFS server that has forgotten its
    replies; or not done and answered with ESTALE."""

    def __init__(self) -> None:
        self.lost_replies = 0
        self.stale = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._rename if name == "rename" else self._open if name == "open" else real

    def _rename(self, source: str, target: str) -> None:
        if self.stale:
            self.stale -= 1
            raise OSError(errno.ESTALE, "Stale file handle", source)
        os.rename(source, target)
        if self.lost_replies:
            self.lost_replies -= 1
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)

    def _open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if self.stale and not flags & os.O_CREAT and flags & 3 == os.O_RDONLY and path.endswith(".json"):
            self.stale -= 1
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return os.open(path, flags, mode)


class SpoolMachine(RuleBasedStateMachine):
    """`where` is the model: each job's state. `held` are the claims of workers that live (or are only paused), with
    the names by which they know them."""

    ids = Bundle("ids")

    @initialize()
    def make(self) -> None:
        self.root = Path(tempfile.mkdtemp(dir=PLACE))
        self.fs = Liar()
        self.spool = Spool(self.root / "spool", durability="none", fs=self.fs)
        self.patch = mock.patch.object(orphans, "find", return_value=set())
        self.patch.start()
        self.where: dict[str, str] = {}
        self.held: list[tuple[Claim, Job]] = []
        self.paused: list[tuple[Claim, Job]] = []
        self.attempts: dict[str, int] = {}
        self.settled_once: dict[str, int] = {}
        self.lease = Lease(self.spool, ROLE_WORKER)
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.stop()
            self.lease.release()
            shutil.rmtree(self.root)

    # -- the rules ------------------------------------------------------------------------------------------------

    @rule(lost=st.integers(0, 2), stale=st.integers(0, 2))
    def network_trouble(self, lost: int, stale: int) -> None:
        self.fs.lost_replies, self.fs.stale = lost, stale

    @rule(target=ids)
    def enqueue(self) -> str:
        job_id = self.spool.enqueue("true")
        self.where[job_id] = "pending"
        return job_id

    @rule(target=ids, job_id=st.sampled_from(["a", "b", "c"]))
    def enqueue_with_id(self, job_id: str) -> str:
        try:
            assert self.spool.enqueue("true", id=job_id) == job_id
            assert job_id not in self.where, "an id was accepted twice"
            self.where[job_id] = "pending"
        except IdTaken:
            assert job_id in self.where, "an id that is free was refused"
        return job_id

    @rule(target=ids, chosen=st.booleans())
    def drop_in(self, chosen: bool) -> str:
        self.number += 1
        body = {"command": "true"} | ({"id": f"d{self.number}"} if chosen else {})
        drop(self.spool, f"file{self.number}.json", body)
        entry = self.spool.adopt(f"file{self.number}.json", time.time_ns())
        assert entry is not None, "a dropped file was lost on the way"
        self.where[entry.id] = "pending"
        return entry.id

    @rule(job_id=ids)
    def claim(self, job_id: str) -> None:
        entry = self.spool.find(job_id)
        assert (entry.state if entry else None) == self.where.get(job_id)
        if entry is None or entry.state not in WAITING:
            return
        claim = self.spool.claim(entry, self.lease.worker, self.lease.next())
        assert claim is not None, "a claim that nobody contests was lost"
        job = self.spool.read_claim(claim)
        assert job is not None
        self.where[job_id] = "processing"
        self.held.append((claim, job))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), state=st.sampled_from(["completed", "failed", "dead", "pending"]))
    def finish(self, data: st.DataObject, state: str) -> None:
        claim, job = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        one = settlement(claim, job, state)
        self.spool.settle([one], [])
        self.spool.remove_temporary(claim.spent)
        assert one.step == Settlement.PUBLISHED
        self.where[claim.id] = state

    @rule()
    def the_worker_dies(self) -> None:
        os.close(self.lease._fd)
        self._another_lives()
        self.held = []

    @rule()
    def the_worker_is_paused_and_taken_for_dead(self) -> None:
        os.close(self.lease._fd)
        self.paused += self.held
        self.held = []
        self._another_lives()

    def _another_lives(self) -> None:
        self.lease = Lease(self.spool, ROLE_WORKER)
        before = dict(self.where)
        recover(self.spool)
        for job_id, state in before.items():
            if state == "processing":
                found = self.spool.find(job_id)
                assert found is not None
                assert found.state in (WAITING | {"dead"}), f"a lost attempt went to {found.state}"
                self.where[job_id] = found.state

    @precondition(lambda self: self.paused)
    @rule(state=st.sampled_from(["completed", "failed"]))
    def a_paused_worker_wakes_and_settles(self, state: str) -> None:
        claim, job = self.paused.pop()
        one = settlement(claim, job, state)
        self.fs.lost_replies = 0  # its target is looked for in vain in any case
        self.spool.settle([one], [])
        assert one.step == Settlement.REFUSED, "a fenced worker's result was taken"
        recover(self.spool)  # its record is left to the sweep

    @rule()
    def recover(self) -> None:
        recover(self.spool)

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        if self.where.get(job_id) in WAITING:
            assert actions.cancel(self.spool, job_id, 0) == "cancelled"
            self.where[job_id] = "dead"
        elif self.where.get(job_id) in ENDED:
            assert actions.cancel(self.spool, job_id, 0) == self.where[job_id]

    @rule(job_id=ids)
    def requeue(self, job_id: str) -> None:
        if job_id in self.where:
            assert actions.requeue(self.spool, job_id) is (self.where[job_id] == "dead")
            self.where[job_id] = "pending" if self.where[job_id] == "dead" else self.where[job_id]

    @rule(state=st.sampled_from(sorted(ENDED)))
    def prune(self, state: str) -> None:
        pruned = {entry.id for entry in actions.prune(self.spool, [state], None, None)}
        assert pruned == {job_id for job_id, where in self.where.items() if where == state}
        for job_id in pruned:
            del self.where[job_id]

    # -- what holds after each --------------------------------------------------------------------------------------

    @invariant()
    def each_job_is_where_the_model_has_it(self) -> None:
        if hasattr(self, "spool"):
            files = files_by_id(self.spool)
            assert {job_id: [place.partition("/")[0] for place in places] for job_id, places in files.items()} == {
                job_id: [state] for job_id, state in self.where.items()
            }
            assert not [name for state in STATES for name in listing(self.spool, state) if "rejected" in name]

    @invariant()
    def nothing_is_left_in_tmp(self) -> None:
        if hasattr(self, "spool"):
            age(self.spool)
            assert leftovers(self.spool) == []


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=40, stateful_step_count=30)
