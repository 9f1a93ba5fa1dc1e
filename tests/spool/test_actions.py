"""What a person does to jobs: cancel, requeue, prune, purge, wait. Safe against whoever else does something."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from queuectl import actions
from queuectl.errors import BadJob, NoSuchJob
from queuectl.lease import ROLE_CLI, ROLE_WORKER, Lease
from queuectl.spool import Entry, Spool
from tests.spool.faults import Fs
from tests.support import at_once, body_of, drop, leftovers, listing, only, places, run_once, settle, state_of


@pytest.fixture
def lease(spool: Spool) -> Any:
    with Lease(spool, ROLE_WORKER) as held:
        yield held


def ended(spool: Spool, lease: Lease, job_id: str, state: str = "dead", log: bool = True) -> None:
    spool.enqueue("true", id=job_id)
    run_once(spool, lease, job_id, state)
    if log:
        os.close(spool.open_log(f"{job_id}.1.log"))


# -- cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_a_waiting_job_goes_to_dead_with_the_reason_and_no_attempt_more(
    spool: Spool, lease: Lease, state: str
) -> None:
    spool.enqueue("true", id="job1")
    if state == "failed":
        run_once(spool, lease, "job1", "failed")
    assert actions.cancel(spool, "job1") == "cancelled"
    assert state_of(spool, "job1") == "dead"
    body = body_of(spool, "job1")
    assert body["last_error"] == "cancelled"
    assert len(body.get("history", [])) == (1 if state == "failed" else 0)
    assert leftovers(spool) == []
    assert listing(spool, "workers") == [lease.worker + ".json"], "the lease of a moment is given up"


@pytest.mark.parametrize("state", ["completed", "dead"])
def test_a_job_that_has_ended_cannot_be_cancelled_and_that_is_said(spool: Spool, lease: Lease, state: str) -> None:
    ended(spool, lease, "job1", state)
    assert actions.cancel(spool, "job1") == state
    assert state_of(spool, "job1") == state
    assert "last_error" not in body_of(spool, "job1")


def test_an_unknown_job_cannot_be_cancelled(spool: Spool) -> None:
    with pytest.raises(NoSuchJob) as caught:
        actions.cancel(spool, "nobody")
    assert str(caught.value) == "There is no job 'nobody' in this spool. See `queuectl list`."


def test_a_running_job_is_asked_for_and_the_request_stands_until_its_worker_answers(spool: Spool, lease: Lease) -> None:
    spool.enqueue("true", id="job1")
    claim = spool.claim(only(spool), lease.worker, lease.next())
    assert claim is not None
    assert actions.cancel(spool, "job1", timeout=0.0) == "requested"
    assert spool.has_request("job1.cancel")
    settle(spool, claim, "completed")
    assert actions.cancel(spool, "job1", timeout=0.0) == "completed", "it was too late"


def test_the_answer_of_a_command_that_has_the_job_for_a_moment_is_waited_for(spool: Spool) -> None:
    """No worker is there, but a `dlq retry` that holds the claim."""
    spool.enqueue("true", id="job1")
    with Lease(spool, ROLE_CLI) as other:
        claim = spool.claim(only(spool), other.worker, other.next(), counted=False)
        assert claim is not None
        looks = iter(range(10))

        class Slow(Spool):
            def find(self, job_id: str) -> Entry | None:
                if next(looks) == 3:
                    settle(spool, claim, "failed")
                return super().find(job_id)

        assert actions.cancel(Slow(spool.root, durability="none"), "job1", None) == "cancelled"
    assert state_of(spool, "job1") == "dead"
    assert not spool.has_request("job1.cancel")


def test_a_job_that_ends_with_its_worker_while_it_is_cancelled_is_not_called_requested(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    lease = Lease(spool, ROLE_WORKER)
    claim = spool.claim(only(spool), lease.worker, lease.next())
    assert claim is not None

    class Late(Fs):
        def after(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and args[1].endswith("job1.cancel"):
                settle(spool, claim, "completed")
                lease.release()

    assert actions.cancel(Spool(spool.root, durability="none", fs=Late()), "job1") == "completed"
    assert not spool.has_request("job1.cancel")


def test_a_job_that_is_claimed_while_it_is_cancelled_is_asked_for_instead(spool: Spool, lease: Lease) -> None:
    """Row 18: exactly one of cancel and claim wins."""

    class Rival(Fs):
        rivals = 0

        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and "/pending/" in args[0] and not self.rivals:
                self.rivals = 1
                assert spool.claim(only(spool), lease.worker, lease.next()) is not None

    spool.enqueue("true", id="job1")
    assert actions.cancel(Spool(spool.root, durability="none", fs=Rival()), "job1", timeout=0.0) == "requested"
    assert state_of(spool, "job1") == "processing"


def test_a_waiting_file_that_is_no_job_is_set_aside_when_it_is_cancelled(spool: Spool) -> None:
    drop(spool, "20990101T000000.000000Z.p0.a0.job1.json", b"no job")
    assert actions.cancel(spool, "job1") == "cancelled"
    assert [reason for _, reason in spool.rejected()] == ["not JSON: Expecting value at line 1 column 1"]


@pytest.mark.parametrize("step", range(8))
def test_ctrl_c_in_the_middle_of_a_cancel_or_requeue_leaves_no_lost_attempt(spool: Spool, step: int) -> None:
    class Interrupted(Fs):
        changes = 0

        def after(self, name: str, args: tuple[Any, ...]) -> None:
            self.changes += name in ("rename", "link", "unlink")
            if self.changes == step + 1:
                self.changes += 1
                signal.raise_signal(signal.SIGINT)

    spool.enqueue("true", id="job1")
    for action in (actions.cancel, actions.requeue):
        fs = Interrupted()
        with suppress(KeyboardInterrupt):
            action(Spool(spool.root, durability="none", fs=fs), "job1")
            assert fs.changes <= step, "the interrupt was raised, and lost"
        assert listing(spool, "processing") == leftovers(spool) == []
        assert listing(spool, "workers") == []
    assert "lost" not in json.dumps(body_of(spool, "job1"))


# -- requeue ----------------------------------------------------------------------------------------------------------


def test_a_requeued_job_has_a_fresh_count_and_its_history(spool: Spool, lease: Lease) -> None:
    spool.enqueue("true", id="job1", priority=-3)
    for state in ("failed", "failed", "dead"):
        run_once(spool, lease, "job1", state)
    assert actions.requeue(spool, "job1") is True
    (name,) = listing(spool, "pending")
    assert ".p-3.a0.job1." in name
    body = body_of(spool, "job1")
    assert body["attempts"] == 0
    assert "last_error" not in body
    assert [entry["attempt"] for entry in body["history"]] == [1, 2, 3]
    job = spool.load(only(spool))
    assert job is not None
    assert job.attempt == 4, "the numbers of attempts go on: no log is written twice"
    assert leftovers(spool) == []


@pytest.mark.parametrize("state", ["pending", "failed", "completed"])
def test_only_a_dead_job_is_requeued(spool: Spool, lease: Lease, state: str) -> None:
    spool.enqueue("true", id="job1")
    if state != "pending":
        run_once(spool, lease, "job1", state)
    before = places(spool, "job1")
    assert actions.requeue(spool, "job1") is False
    assert places(spool, "job1") == before


def test_an_unknown_job_cannot_be_requeued(spool: Spool) -> None:
    with pytest.raises(NoSuchJob):
        actions.requeue(spool, "nobody")


@pytest.mark.parametrize("content", [b"no job", b'{"command": "true", "id": "another"}'])
def test_a_dead_file_that_is_no_job_is_told_of_and_not_lost(spool: Spool, content: bytes) -> None:
    Path(spool.dir("dead") + "job1.json").write_bytes(content)
    with pytest.raises(BadJob):
        actions.requeue(spool, "job1")
    files = [Path(spool.dir("dead") + name).read_bytes() for name in listing(spool, "dead")]
    assert content in files
    assert listing(spool, "processing") == []


REQUEUE = """
import sys
from queuectl import Spool, requeue
from queuectl.errors import NoSuchJob
spool = Spool(sys.argv[1], durability="none")
input()
print(*[n for n in range(25) if requeue(spool, f"job{n}")])
"""


def test_of_several_who_requeue_at_once_one_does(spool: Spool, lease: Lease) -> None:
    for n in range(25):
        ended(spool, lease, f"job{n}", log=False)
    done = " ".join(at_once(REQUEUE, [[spool.root]] * 3)).split()
    assert sorted(map(int, done)) == list(range(25))
    assert {state_of(spool, f"job{n}") for n in range(25)} == {"pending"}


# -- prune and purge --------------------------------------------------------------------------------------------------


def test_pruning_takes_the_logs_and_the_id_along(spool: Spool, lease: Lease) -> None:
    for job_id in ("old", "new"):
        ended(spool, lease, job_id, "completed")
    os.close(spool.open_log("old.2.log"))
    os.utime(spool.dir("completed") + "old.json", (1, 1))
    pruned = actions.prune(spool, ["completed"], 3600.0, None)
    assert [entry.id for entry in pruned] == ["old"]
    assert listing(spool, "completed") == ["new.json"]
    assert listing(spool, ".ids") == ["new"]
    assert "new.1.log" in listing(spool, "logs")
    assert "old.1.log" not in listing(spool, "logs")
    assert spool.enqueue("true", id="old") == "old"


def test_the_newest_of_each_state_are_kept(spool: Spool, lease: Lease) -> None:
    for n in range(4):
        for state in ("completed", "dead"):
            ended(spool, lease, f"{state}{n}", state, log=False)
            os.utime(spool.dir(state) + f"{state}{n}.json", (100 + n, 100 + n))
    pruned = actions.prune(spool, ["completed", "dead"], None, 1)
    assert sorted(entry.id for entry in pruned) == [f"{s}{n}" for s in ("completed", "dead") for n in range(3)]


@pytest.mark.parametrize(("older_than", "keep", "left"), [(None, None, 0), (0.0, None, 0), (50.0, 1, 3), (1e9, 0, 4)])
def test_age_and_number_both_protect(
    spool: Spool, lease: Lease, older_than: float | None, keep: int | None, left: int
) -> None:
    now = time.time()
    for n, age in enumerate((10, 20, 30, 100)):
        ended(spool, lease, f"job{n}", "completed", log=False)
        os.utime(spool.dir("completed") + f"job{n}.json", (now - age, now - age))
    actions.prune(spool, ["completed"], older_than, keep)
    assert len(listing(spool, "completed")) == left


def test_a_dry_run_touches_nothing(spool: Spool, lease: Lease) -> None:
    ended(spool, lease, "job1", "completed")
    assert [entry.id for entry in actions.prune(spool, ["completed"], None, None, dry_run=True)] == ["job1"]
    assert listing(spool, "completed") == ["job1.json"]
    assert "job1.1.log" in listing(spool, "logs")


def test_a_history_that_somebody_made_up_does_not_keep_pruning_busy(spool: Spool) -> None:
    Path(spool.dir("completed") + "job1.json").write_text('{"command": "x", "history": [{"attempt": 999999999}]}')
    for name in ("job1.7.log", "job1.999999999.log", "job10.1.log"):
        os.close(spool.open_log(name))
    fs = Fs()
    assert len(actions.prune(Spool(spool.root, durability="none", fs=fs), ["completed"], None, None)) == 1
    assert len(fs.calls) < 10
    assert listing(spool, "logs") == ["job10.1.log"]


def test_a_job_that_is_requeued_while_it_is_purged_keeps_its_id(spool: Spool, lease: Lease) -> None:
    """Row 19: the id of a job that lives must not be given to another."""

    class Rival(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "unlink" and args[0].endswith("dead/job1.json"):
                assert actions.requeue(spool, "job1")

    ended(spool, lease, "job1")
    assert actions.purge(Spool(spool.root, durability="none", fs=Rival())) == 0
    assert state_of(spool, "job1") == "pending"
    assert listing(spool, ".ids") == ["job1"]


def test_purging_empties_the_dead_letter_queue_and_nothing_else(spool: Spool, lease: Lease) -> None:
    ended(spool, lease, "dead1")
    ended(spool, lease, "done1", "completed")
    drop(spool, "bad.json", b"no job")
    spool.reject("pending", "bad.json", "why")
    assert actions.purge(spool) == 2
    assert listing(spool, "dead") == []
    assert listing(spool, "completed") == ["done1.json"]
    assert listing(spool, ".ids") == ["done1"]


# -- wait and stop ----------------------------------------------------------------------------------------------------


def test_waiting_for_jobs_that_have_ended_gives_their_states(spool: Spool, lease: Lease) -> None:
    ended(spool, lease, "a", "completed")
    ended(spool, lease, "b", "dead")
    seen: list[dict[str, str]] = []
    assert actions.wait(spool, ["a", "b", "a"], progress=lambda states: seen.append(dict(states))) == {
        "a": "completed", "b": "dead",
    }  # fmt: skip
    assert seen == [{"a": "completed", "b": "dead"}]


def test_waiting_ends_at_its_timeout_and_for_unknown_jobs_at_once(spool: Spool) -> None:
    spool.enqueue("true", id="a")
    assert actions.wait(spool, ["a"], timeout=0.0) is None
    with pytest.raises(NoSuchJob):
        actions.wait(spool, ["a", "nobody"])


def test_prune_keeps_what_has_died_again_since_it_was_listed(spool: Spool, lease: Lease) -> None:
    ended(spool, lease, "old")
    ended(spool, lease, "older")
    for job_id, age in (("old", 50), ("older", 60)):
        when = time.time() - age * 86400
        os.utime(f"{spool.dir('dead')}{job_id}.json", (when, when))

    class Slow(Spool):
        def remove_job(self, entry: Entry) -> bool:
            if entry.id == "old":
                actions.requeue(spool, "older")
                run_once(spool, lease, "older", "dead")
            return super().remove_job(entry)

    slow = Slow(spool.root, durability="none")
    assert [entry.id for entry in actions.prune(slow, ["dead"], 40 * 86400.0, None)] == ["old"]
    assert state_of(spool, "older") == "dead"


def test_a_cancelled_or_requeued_job_leaves_no_lease_and_no_draft(spool: Spool) -> None:
    spool.enqueue("true", id="a")
    actions.cancel(spool, "a")
    actions.requeue(spool, "a")
    with Lease(spool, ROLE_CLI):
        pass
    assert listing(spool, "workers") == leftovers(spool) == []
