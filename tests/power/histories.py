"""What is done before the power goes: short lives of jobs, each step acknowledged when its call has returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from queuectl import actions
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.spool import Settlement, Spool
from tests.support import drop
from tests.sweep.operations import OLD, claimed, recover, settlement

ANYWHERE = frozenset({"pending", "processing", "failed", "completed", "dead"})


class Acknowledged(NamedTuple):
    """From now on the job exists once, in one of these states, with at least so many attempts in its history."""

    id: str
    states: frozenset[str] = ANYWHERE
    history: int = 0


Tell = Callable[[Acknowledged], None]


class History(NamedTuple):
    name: str
    act: Callable[[Spool, Tell], None]
    prepare: Callable[[Spool], object] = lambda spool: None

    def __repr__(self) -> str:
        return self.name


class Worker:
    """A worker in a few calls, as worker.py makes them: the claim is synced, the settle recycles."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.lease = Lease(spool, ROLE_WORKER)
        self.spares: list[str] = []

    def work(self, *ids_and_states: tuple[str, str]) -> None:
        """Claim these jobs, and settle each into a state, in one batch."""
        held = []
        for job_id, state in ids_and_states:
            entry = self.spool.find(job_id)
            assert entry is not None
            claim = self.spool.claim(entry, self.lease.worker, self.lease.next())
            assert claim is not None
            held.append((claim, state))
        self.spool.sync("processing")
        batch = []
        for claim, state in held:
            job = self.spool.read_claim(claim)
            assert job is not None
            batch.append(settlement(claim, job, state))
        self.spool.settle(batch, self.spares)
        assert all(one.step == Settlement.PUBLISHED for one in batch)

    def leave(self) -> None:
        for name in self.spares:
            self.spool.remove_temporary(name)
        self.lease.release()


def _enqueue(spool: Spool, tell: Tell) -> None:
    for number in range(2):
        tell(Acknowledged(spool.enqueue("true")))
        tell(Acknowledged(spool.enqueue("true", id=f"mine{number}")))


def _batch(spool: Spool, tell: Tell) -> None:
    for job_id in spool.enqueue_many([{"command": "true"}, {"command": "true", "id": "mine"}, {"argv": ["true"]}]):
        tell(Acknowledged(job_id))


def _life(*states: str) -> Callable[[Spool, Tell], None]:
    """A job is accepted and attempted, once for each state; the last one may be "requeued"."""

    def act(spool: Spool, tell: Tell) -> None:
        spool.enqueue("true", id="j")
        tell(Acknowledged("j"))
        worker, attempts = Worker(spool), 0
        for number, state in enumerate(states):
            if state == "requeued":
                assert actions.requeue(spool, "j")
                state = "pending"
            else:
                worker.work(("j", state))
                attempts += state != "pending"
            # What comes after may have been done, or be lost on the way.
            later = set(states[number + 1 :])
            if later:
                later = (later - {"requeued"}) | {"failed", "pending"}
            tell(Acknowledged("j", frozenset({state} | later), attempts))
        worker.leave()
        tell(Acknowledged("j", frozenset({state}), attempts))

    return act


def _several(spool: Spool, tell: Tell) -> None:
    """Two jobs in one batch, and a third in the files that these have left."""
    for job_id in ("a", "b", "c"):
        spool.enqueue("true", id=job_id)
        tell(Acknowledged(job_id))
    worker = Worker(spool)
    worker.work(("a", "completed"), ("b", "failed"))
    tell(Acknowledged("a", frozenset({"completed"}), 1))
    tell(Acknowledged("b", frozenset({"failed"}), 1))
    worker.work(("c", "dead"))
    tell(Acknowledged("c", frozenset({"dead"}), 1))
    worker.leave()


def _adopt(spool: Spool, tell: Tell) -> None:
    spool.adopt("x.json", time.time_ns())
    worker = Worker(spool)
    worker.work(("x", "completed"))
    tell(Acknowledged("x", frozenset({"completed"}), 1))
    worker.leave()


def _recover(spool: Spool, tell: Tell) -> None:
    recover(spool)
    tell(Acknowledged("j", frozenset({"failed"})))


def _pruned(spool: Spool, tell: Tell) -> None:
    """An id that is used again after its first job was pruned."""
    Worker(spool).work((spool.enqueue("true", id="j"), "completed"))
    actions.prune(spool, ["completed"], None, None)
    tell(Acknowledged(spool.enqueue("true", id="j"), frozenset({"pending"})))


def _cancel(spool: Spool, tell: Tell) -> None:
    tell(Acknowledged(spool.enqueue("true", id="j")))
    assert actions.cancel(spool, "j", 0) == "cancelled"
    tell(Acknowledged("j", frozenset({"dead"})))


def _scheduled(spool: Spool, tell: Tell) -> None:
    """Cancelled before its time, and given another life, which is to begin now."""
    spool.enqueue("true", id="j", run_at="2099-01-01T00:00:00Z")
    tell(Acknowledged("j"))
    actions.cancel(spool, "j", 0)
    tell(Acknowledged("j", frozenset({"dead", "pending", "failed"})))
    assert actions.requeue(spool, "j")
    tell(Acknowledged("j", frozenset({"pending"})))


HISTORIES = [
    History("enqueue", _enqueue),
    History("enqueue a batch", _batch),
    History("completed", _life("completed")),
    History("failed, then completed", _life("failed", "completed")),
    History("released, then dead", _life("pending", "dead")),
    History("failed, released, completed", _life("failed", "pending", "completed")),
    History("dead, then requeued", _life("dead", "requeued")),
    History("dead, requeued, completed", _life("dead", "requeued", "completed")),
    History("several at once", _several),
    History("adopted", _adopt, lambda spool: drop(spool, "x.json", {"command": "true", "id": "x"})),
    History("recovered", _recover, lambda spool: claimed(spool, "j", worker=OLD)),
    History("pruned, and used again", _pruned),
    History("cancelled", _cancel),
    History("scheduled, cancelled, requeued", _scheduled),
]
