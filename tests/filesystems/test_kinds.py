"""The round trip and the race for claims on each kind of file system that this kernel mounts."""

from __future__ import annotations

import json
from pathlib import Path

from queuectl.spool import Spool
from tests.support import at_once, listing, needs_root, queuectl, state_of, until, worker

pytestmark = needs_root

JOBS = 2000
RACE = """
import sys, json
from queuectl.spool import Spool
from queuectl.lease import Lease
spool = Spool(sys.argv[1], durability="none")
with Lease(spool, "worker") as lease:
    input()
    won = []
    for entry in sorted(spool.entries(["pending"])):
        if claim := spool.claim(entry, lease.worker, lease.next()):
            won.append(claim.id)
    print(json.dumps(won))
"""


def test_a_job_goes_from_enqueue_to_completed_with_its_output(spool_on: Spool) -> None:
    enqueued = queuectl(spool_on, "enqueue", "echo hello")
    assert enqueued.returncode == 0, enqueued.stderr
    job_id = enqueued.stdout.strip().split()[-1]
    with worker(spool_on, "--min-free", "0") as running:
        until(lambda: listing(spool_on, "completed"), what="the job is completed")
        assert state_of(spool_on, job_id) == "completed"
        assert running.end() == 0
    assert Path(spool_on.root, "logs", f"{job_id}.1.log").read_text() == "hello\n"


def test_of_two_thousand_claims_by_three_each_is_won_once(spool_on: Spool) -> None:
    spool_on.set_durability("none")
    ids = spool_on.enqueue_many([{"command": "true"}] * JOBS)
    printed = at_once(RACE, [[spool_on.root]] * 3)
    won = [job_id for line in printed for job_id in json.loads(line.splitlines()[-1])]
    assert sorted(won) == sorted(ids)
    assert len(listing(spool_on, "processing")) == JOBS
