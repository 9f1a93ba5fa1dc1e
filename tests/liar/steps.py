"""One job's life, step by step, in a process that is lied to: python -m tests.liar.steps [--each-call] SPOOL

With --each-call it is lived again and again, in SPOOL/1, SPOOL/2, ...: the k-th time the k-th call is lied about, until
there are no more calls.

Each step is tried again after a SpoolError, as a person or a worker would. What it prints is JSON: what was accepted,
and how often each step had to be tried.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from queuectl.core import job as jobs
from queuectl.core.names import Claim, Record
from queuectl.core.states import COMPLETED, DEAD, PENDING
from queuectl.errors import IdTaken, SpoolError
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.recover import release
from queuectl.spool import Settlement, Spool
from tests.support import adopt_all

_T = TypeVar("_T")
TRIES = 20


class Steps:
    def __init__(self, root: str) -> None:
        self.tried: dict[str, int] = {}
        self.spool: Spool = self.again("open", lambda: Spool(root, durability="fsync"))
        self.lease: Lease = self.again("lease", lambda: Lease(self.spool, ROLE_WORKER))
        self.accepted: list[str] = []

    def again(self, name: str, step: Callable[[], _T]) -> _T:
        for _ in range(TRIES):
            self.tried[name] = self.tried.get(name, 0) + 1
            try:
                return step()
            except SpoolError:
                continue
        raise SystemExit(f"{name} failed {TRIES} times")

    def enqueue(self, job_id: str) -> None:
        """Enqueue under an id of one's own, so that a second try can't make a second job."""

        def once() -> str:
            try:
                return self.spool.enqueue("true", id=job_id)
            except IdTaken:
                assert self.tried["enqueue"] > 1, "the first try cannot find its id taken"
                return job_id

        self.accepted.append(self.again("enqueue", once))

    def drop(self, job_id: str) -> None:
        path = Path(self.spool.dir(PENDING)) / f"{job_id}.json"
        path.write_text(json.dumps({"command": "true", "id": job_id}))
        self.accepted.append(job_id)
        self.again("adopt", lambda: adopt_all(self.spool))

    def claim(self, job_id: str) -> Claim:
        """As a worker does: a claim that it doesn't know of is found in processing/."""

        def once() -> Claim | None:
            mine = [claim for claim in self.spool.claims() if claim.id == job_id]
            entry = self.spool.find(job_id)
            assert entry is not None, f"{job_id} is nowhere"
            return mine[0] if mine else self.spool.claim(entry, self.lease.worker, self.lease.next())

        claim = self.again("claim", once)
        assert claim is not None, f"nobody else wanted {job_id}, but it could not be claimed"
        return claim

    def settle(self, claim: Claim, state: str) -> None:
        job = self.again("read", lambda: self.spool.read_claim(claim))
        assert job is not None
        now = time.time_ns()
        if state == PENDING:
            settlement = release(claim, job, now)
        else:
            settlement = Settlement(Record(claim, state), jobs.settled(job, claim, claim.attempts, now))
        spares: list[str] = []
        self.again("settle", lambda: self.spool.settle([settlement], spares))
        assert settlement.step == Settlement.PUBLISHED, f"{claim.id} was refused: step {settlement.step}"
        for name in spares:
            self.spool.remove_temporary(name)


def live(root: str) -> dict[str, Any]:
    steps = Steps(root)
    for job_id, state in (("done", COMPLETED), ("gone", DEAD), ("back", PENDING)):
        steps.enqueue(job_id)
        steps.settle(steps.claim(job_id), state)
    steps.settle(steps.claim("back"), COMPLETED)
    steps.drop("dropped")
    steps.settle(steps.claim("dropped"), COMPLETED)
    steps.lease.release()
    return {"accepted": steps.accepted, "tried": steps.tried}


def live_for_each_call(root: Path) -> list[dict[str, Any]]:
    root.mkdir()
    lies = Path(os.environ["LIAR_LOG"])
    lives: list[dict[str, Any]] = []
    while True:
        os.environ["LIAR_NTH"] = str(len(lives) + 1)
        told = lies.stat().st_size if lives else 0
        lives.append(live(str(root / str(len(lives) + 1))))
        if not lies.exists() or lies.stat().st_size == told:
            return lives


if __name__ == "__main__":
    if sys.argv[1] == "--each-call":
        print(json.dumps(live_for_each_call(Path(sys.argv[2]))))
    else:
        print(json.dumps(live(sys.argv[1])))
