"""Every operation, killed before its first change, its second, ...: then a stranger recovers, and nothing is lost.

The processes of tests/crash die for real; here the file system makes no call any more, which reaches every k in a
second. After each crash: recovery with a fresh lease, and again when all that lies around is old.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl import actions
from queuectl.config import load
from queuectl.spool import Spool
from tests.spool.faults import Crash, every_call
from tests.spool.stage import Deaf, Stages
from tests.support import (
    adopt_all,
    age,
    drop,
    leftovers,
    listing,
    only,
    places,
    recover,
    run_once,
    settlement,
    state_of,
)


@pytest.mark.parametrize("job_id", [None, "job1"])
def test_enqueue_gives_a_whole_job_or_none(stages: Stages, job_id: str | None) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        members = {"id": job_id} if job_id else {}
        finished = stage.play(lambda: stage.doomed.enqueue("echo hi", **members), k)
        stage.clear_up()
        names = listing(stage.spool, "pending")
        assert len(names) == 1 or (not finished and names == [])
        if names:
            job = stage.spool.load(only(stage.spool))
            assert job is not None
            assert job.command == "echo hi"
        if job_id:
            assert stage.is_free(job_id) == (names == []), "an id is taken if and only if its job is there"
        return finished

    assert every_call(run) >= 3


def test_a_batch_gives_whole_jobs(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        batch = [{"command": "a", "id": "a"}, {"command": "b"}, {"command": "c", "id": "c"}]
        finished = stage.play(lambda: stage.doomed.enqueue_many(batch), k)
        stage.clear_up()
        commands: list[str] = []
        for entry in stage.spool.entries():
            job = stage.spool.load(entry)
            assert job is not None
            commands.append(job.shown)
        assert sorted(commands) == ["a", "b", "c"][: len(commands)], "accepted in their order"
        assert not finished or len(commands) == 3
        for job_id in ("a", "c"):
            assert stage.is_free(job_id) == (job_id not in commands)
        return finished

    assert every_call(run) >= 8


def test_adoption_gives_one_job_to_whoever_adopts_next(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        drop(stage.spool, "x.json", {"command": "true", "id": "job1"})
        finished = stage.play(lambda: stage.doomed.adopt("x.json", time.time_ns()), k)
        stage.clear_up()
        assert len(adopt_all(stage.spool)) == (not finished)
        assert len(places(stage.spool, "job1")) == 1
        assert not stage.is_free("job1")
        return finished

    assert every_call(run) == 3


def test_rejecting_keeps_the_bytes(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        drop(stage.spool, "x.json", "no job")
        seen = stage.spool.signature("x.json")
        finished = stage.play(lambda: stage.doomed.reject("pending", "x.json", "why", seen), k)
        stage.clear_up()
        for left in listing(stage.spool, "pending"):
            assert not finished
            stage.spool.reject("pending", left, "why", stage.spool.signature(left))
        ((name, reason),) = stage.spool.rejected()
        assert name in ("x.json.rejected", "x.json.2.rejected"), "under the name that it was dropped with"
        assert reason == "why"
        assert Path(stage.spool.dir("dead") + name).read_bytes() == b"no job"
        return finished

    assert every_call(run) >= 4


def test_a_claim_whose_command_was_not_started_is_given_back_uncounted(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        finished = stage.play(lambda: stage.claimed(), k)
        stage.clear_up()
        assert state_of(stage.spool, "job1") == "pending"
        assert ".a0." in listing(stage.spool, "pending")[0]
        return finished

    assert every_call(run) == 1


@pytest.mark.parametrize("state", ["completed", "dead", "failed", "pending"])
@pytest.mark.parametrize("recycled", [False, True], ids=["new file", "recycled file"])
def test_a_settle_is_finished_by_whoever_recovers(stages: Stages, state: str, recycled: bool) -> None:
    """Rows 4 and 5: once the record is whole, the command is never run again."""

    def run(k: int) -> bool:
        stage = stages(k)
        if recycled:
            stage.spool.enqueue("true", id="earlier")
            run_once(stage.doomed, stage.lease, "earlier", spares=stage.spares)
        one = settlement(stage.doomed, stage.claimed(started=True), state)
        finished = stage.play(lambda: stage.doomed.settle([one], stage.spares), k)
        decided = [record.state for record in stage.recorded]
        ended = state_of(stage.spool, "job1") if places(stage.spool, "job1") else "processing"
        stage.clear_up()
        expected = decided[0] if decided else ended if ended != "processing" else "failed"
        assert state_of(stage.spool, "job1") == expected
        assert expected in (state, "failed")
        assert not finished or expected == state
        if recycled:
            assert state_of(stage.spool, "earlier") == "completed"
        return finished

    assert every_call(run) >= 4


def test_a_batch_of_settles_loses_none(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        states = ["completed", "failed", "dead", "pending"]
        batch = [settlement(stage.doomed, stage.claimed(f"job{n}"), state) for n, state in enumerate(states)]
        finished = stage.play(lambda: stage.doomed.settle(batch, stage.spares), k)
        stage.clear_up()
        found = [state_of(stage.spool, f"job{n}") for n in range(len(states))]
        assert all(one in (state, "pending") for one, state in zip(found, states, strict=True))
        assert not finished or found == states
        return finished

    assert every_call(run) >= 16


@pytest.mark.parametrize("act", [actions.requeue, actions.cancel])
def test_what_a_person_does_to_a_job_leaves_one_job(stages: Stages, act: Callable[[Spool, str], Any]) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        stage.spool.enqueue("true", id="job1")
        if act is actions.requeue:
            run_once(stage.doomed, stage.lease, "job1", "dead")
        finished = stage.play(lambda: act(stage.doomed, "job1"), k)
        stage.clear_up()
        before, after = ("dead", "pending") if act is actions.requeue else ("pending", "dead")
        assert state_of(stage.spool, "job1") in ((after,) if finished else (before, after, "pending"))
        return finished

    assert every_call(run) >= 6


def test_pruning_leaves_a_job_or_a_free_id(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        stage.spool.enqueue("true", id="job1")
        run_once(stage.doomed, stage.lease, "job1")
        os.close(stage.spool.open_log("job1.1.log"))
        entry = stage.spool.find("job1")
        assert entry is not None
        finished = stage.play(lambda: stage.doomed.remove_job(entry), k)
        stage.clear_up()
        if places(stage.spool, "job1"):
            assert not finished
            assert not stage.is_free("job1")
            assert stage.spool.remove_job(entry)
        assert listing(stage.spool, "logs") == []
        assert stage.is_free("job1")
        return finished

    assert every_call(run) == 4


def test_settings_are_the_old_ones_or_the_new_ones(stages: Stages) -> None:
    def run(k: int) -> bool:
        stage = stages(k)
        stage.spool.change_config({"max-retries": "5"})
        finished = stage.play(lambda: stage.doomed.change_config({"max-retries": "6"}), k)
        stage.clear_up()
        assert load(stage.spool.config_path, {}).max_retries in ((6,) if finished else (5, 6))
        stage.spool.change_config({"max-retries": "7"})
        return finished

    assert every_call(run) >= 3


def test_a_half_made_spool_is_completed(tmp_path: Path) -> None:
    def run(k: int) -> bool:
        fs = Deaf()
        fs.arm(k)
        try:
            Spool(tmp_path / f"new{k}" / "spool", durability="none", fs=fs)
            finished = True
        except Crash:
            finished = False
        spool = Spool(tmp_path / f"new{k}" / "spool", durability="none")
        spool.enqueue("true")
        age(spool)
        recover(spool)
        assert leftovers(spool) == []
        return finished

    assert every_call(run) >= 12
