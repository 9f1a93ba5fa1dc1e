"""Many workers on one spool, and people who change their minds: exactly one wins, nothing is doubled."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from pathlib import Path

from queuectl import actions
from queuectl.errors import NoSuchJob
from queuectl.spool import Spool
from tests.support import STATES, listing, places, queuectl, until, worker


def test_eight_workers_start_each_of_a_thousand_jobs_once(spool: Spool, tmp_path: Path) -> None:
    history = tmp_path / "history"
    ids = spool.enqueue_many([{"argv": ["/bin/sh", "-c", f"echo $QUEUECTL_CLAIM >> {history}"]} for _ in range(1000)])
    with ExitStack() as stack:
        fleet = [stack.enter_context(worker(spool, "--count", "2")) for _ in range(8)]
        until(lambda: len(listing(spool, "completed")) == 1000, 60, what="all are completed")
        assert [process.end() for process in fleet] == [0] * 8
    claims = history.read_text().split()
    assert len(claims) == 1000
    assert sorted(claim.partition("@")[0].rpartition(".")[2] for claim in claims) == sorted(ids)
    assert listing(spool, ".tmp") == []


def test_cancel_races_with_claim_and_settle_and_one_wins(spool: Spool, tmp_path: Path) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ids = spool.enqueue_many([{"command": f"sleep 0.0{n % 4}", "max_retries": 0} for n in range(120)])
    answers: dict[str, str] = {}

    def cancel(mine: list[str]) -> None:
        for job_id in mine:
            answers[job_id] = actions.cancel(Spool(spool.root, durability="none"), job_id)

    with worker(spool, "--count", "4") as process:
        chosen = chance.sample(ids, 60)
        threads = [threading.Thread(target=cancel, args=(chosen[n::3],)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        until(lambda: len(listing(spool, "completed")) + len(listing(spool, "dead")) == 120, 30, what="all have ended")
        assert process.end() == 0
    for job_id in ids:
        (place,) = places(spool, job_id)
        state = place.partition("/")[0]
        assert state == {"cancelled": "dead", "completed": "completed", "dead": "dead"}[
            answers.get(job_id, "completed")
        ], (job_id, answers.get(job_id))
    assert sum(listing(spool, state) != [] for state in ("pending", "processing", "failed")) == 0


def test_requeue_purge_and_show_race_without_a_trace(spool: Spool) -> None:
    ids = spool.enqueue_many([{"command": "false", "max_retries": 0} for _ in range(60)])
    assert queuectl(spool, "worker", "start", "--count", "4", "--until-empty").returncode == 0
    errors: list[BaseException] = []
    requeued: set[str] = set()

    def requeue() -> None:
        mine = Spool(spool.root, durability="none")
        for job_id in ids:
            try:
                if actions.requeue(mine, job_id):
                    requeued.add(job_id)
            except NoSuchJob:
                pass
            except BaseException as error:
                errors.append(error)

    def purge() -> None:
        try:
            for _ in range(5):
                actions.purge(Spool(spool.root, durability="none"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (requeue, requeue, purge)]
    for thread in threads:
        thread.start()
    shown = [queuectl(spool, "show", job_id) for job_id in ids[::12]]
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert {(result.returncode, "Traceback" in result.stderr) for result in shown} <= {(0, False), (1, False)}
    left = {state: listing(spool, state) for state in STATES}
    assert len(left["pending"]) == len(requeued)
    assert left["processing"] == left["failed"] == left["completed"] == []
