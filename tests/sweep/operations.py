"""The operations that the sweeps interrupt: how each is prepared, done, and where its jobs may be afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from queuectl import actions
from queuectl.core import job as jobs
from queuectl.core.backoff import Policy
from queuectl.core.names import Claim, Record
from queuectl.core.times import next_stamp
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.recover import Recovery, record_for, release, settle_now
from queuectl.spool import Settlement, Spool
from tests.support import adopt_all, drop

POLICY = Policy(3, 0.0, 3600.0, "none", frozenset({100}))
OLD = "gone-1-0000000000"  # a worker that died long ago: it has no lease
Tell = Callable[[str], None]


class Operation(NamedTuple):
    """`prepare` is not interrupted; what it returns is given to `act`, which tells the ids that it has accepted.
    `before` and `after` are where each job may be if nothing of `act` was done, and if all was."""

    name: str
    prepare: Callable[[Spool], object]
    act: Callable[[Spool, object, Tell], None]
    before: Mapping[str, str] = MappingProxyType({})
    after: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return self.name


def recover(spool: Spool) -> list[str]:
    """What a worker does when it starts; what it said."""
    said: list[str] = []
    with Lease(spool, ROLE_WORKER) as lease:
        census = Census(spool, 120.0, lease.worker)
        recovery = Recovery(spool, lease, lambda: POLICY, lambda level, text: said.append(text))
        recovery.run(lambda: census.look(time.monotonic()), time.time_ns())
    return said


def claimed(spool: Spool, *ids: str, worker: str = "") -> tuple[Lease | None, list[tuple[Claim, jobs.Job]]]:
    """Jobs that somebody has claimed: a worker with a lease, or one whose lease is gone."""
    lease = None if worker else Lease(spool, ROLE_WORKER)
    held = []
    for number, job_id in enumerate(ids, 1):
        spool.enqueue("true", id=job_id)
        entry = spool.find(job_id)
        assert entry is not None
        claim = spool.claim(entry, lease.worker if lease else worker, lease.next() if lease else number)
        assert claim is not None
        job = spool.read_claim(claim)
        assert job is not None
        os.close(spool.open_log(f"{job_id}.{job.attempt}.log"))
        held.append((claim, job))
    return lease, held


def settlement(claim: Claim, job: jobs.Job, state: str) -> Settlement:
    now = time.time_ns()
    if state == "pending":
        return release(claim, job, now)
    stamped = (next_stamp(claim.not_before), claim.attempts) if state == "failed" else ()
    data = jobs.settled(job, claim, claim.attempts, now, {"attempt": job.attempt}, "" if state == "completed" else "no")
    return Settlement(Record(claim, state, *stamped), data)


def ended(spool: Spool, job_id: str, state: str) -> None:
    lease, held = claimed(spool, job_id)
    assert lease is not None
    assert settle_now(spool, settlement(*held[0], state))
    lease.release()


def _settle(state: str, jobs_at_once: int, spare: bool) -> Operation:
    ids = [f"j{number}" for number in range(jobs_at_once)]

    def prepare(spool: Spool) -> object:
        lease, held = claimed(spool, *ids)
        assert lease is not None
        batch = [settlement(claim, job, state) for claim, job in held]
        return lease, batch, [spool.make_spare(lease.worker, 1, 4096)] if spare else []

    def act(spool: Spool, prepared: object, tell: Tell) -> None:
        _, batch, spares = prepared  # type: ignore[misc]
        spool.settle(batch, spares)
        assert all(one.step == Settlement.PUBLISHED for one in batch)
        while spares:
            spool.remove_temporary(spares.pop())

    more = " with a spare" if spare else ""
    return Operation(f"settle {jobs_at_once} {state}{more}", prepare, act, dict.fromkeys(ids, "failed"),
                     dict.fromkeys(ids, state))


def _recover(name: str, step: int, state: str) -> Operation:
    """A worker died at that step of a settle; the recoverer is interrupted."""

    def prepare(spool: Spool) -> object:
        _, held = claimed(spool, "j", worker=OLD)
        if step >= Settlement.WRITTEN:
            one = settlement(*held[0], state)
            spool._write_record(one.record, one.data, [])
            if step >= Settlement.FENCED:
                claim = one.record.claim
                os.rename(spool.dir("processing") + claim.name, spool.dir(".tmp") + claim.spent)
            if step >= Settlement.PUBLISHED:
                assert spool.publish(one.record)
        return None

    after = {"j": state if step else "failed"}
    return Operation(f"recover {name}", prepare, lambda spool, _, tell: recover(spool) and None, after, after)


def _enqueue_with_id(spool: Spool, _: object, tell: Tell) -> None:
    tell(spool.enqueue("true", id="mine"))


def _batch(spool: Spool, _: object, tell: Tell) -> None:
    for job_id in spool.enqueue_many([{"command": "true"}, {"command": "true", "id": "mine"}, {"argv": ["true"]}]):
        tell(job_id)


def _adopt(spool: Spool, _: object, tell: Tell) -> None:
    adopt_all(spool)


def _claim(spool: Spool, prepared: object, tell: Tell) -> None:
    lease = prepared[0]  # type: ignore[index]
    entry = spool.find("j")
    assert entry is not None
    if entry.state != "processing":
        assert spool.claim(entry, lease.worker, lease.next())
    os.close(spool.open_log("j.1.log"))
    spool.sync("processing")


def _reject(spool: Spool, _: object, tell: Tell) -> None:
    if "x.json" in spool.names("pending"):
        assert spool.reject("pending", "x.json", "it is no job")


def _one(spool: Spool) -> object:
    return spool.enqueue("true", id="j")


def _leased(spool: Spool) -> object:
    _one(spool)
    return (Lease(spool, ROLE_WORKER),)


def operations() -> Iterator[Operation]:
    """All of them."""
    def nothing(spool: Spool) -> object:
        return None

    yield Operation("enqueue", nothing, lambda spool, _, tell: tell(spool.enqueue("true")))
    yield Operation("enqueue a chosen id", nothing, _enqueue_with_id, {}, {"mine": "pending"})
    yield Operation("enqueue a batch", nothing, _batch, {}, {"mine": "pending"})
    yield Operation("adopt", lambda spool: drop(spool, "x.json", {"command": "true"}), _adopt)
    yield Operation("adopt a chosen id", lambda spool: drop(spool, "x.json", {"command": "true", "id": "mine"}), _adopt,
                    {}, {"mine": "pending"})
    yield Operation("set a foreign file aside", lambda spool: drop(spool, "x.json", "{"), _reject)
    yield Operation("claim", _leased, _claim, {"j": "pending"}, {"j": "failed"})
    for state in ("completed", "failed", "dead", "pending"):
        yield _settle(state, 1, False)
        yield _settle(state, 1, True)
    yield _settle("completed", 3, True)
    yield _recover("a claim", Settlement.NEW, "failed")
    yield _recover("a recorded outcome", Settlement.WRITTEN, "completed")
    yield _recover("a fenced outcome", Settlement.FENCED, "completed")
    yield _recover("a fenced failure", Settlement.FENCED, "failed")
    yield _recover("a published outcome", Settlement.PUBLISHED, "dead")
    yield Operation("cancel", _one, lambda spool, _, tell: actions.cancel(spool, "j", 0) and None, {"j": "pending"},
                    {"j": "dead"})
    yield Operation("cancel of a running job", lambda spool: claimed(spool, "j"),
                    lambda spool, _, tell: actions.cancel(spool, "j", 0) and None, {"j": "failed"}, {"j": "dead"})
    yield Operation("requeue", lambda spool: ended(spool, "j", "dead"),
                    lambda spool, _, tell: actions.requeue(spool, "j") and None, {"j": "dead"}, {"j": "pending"})
    yield Operation("prune", lambda spool: ended(spool, "j", "completed"),
                    lambda spool, _, tell: actions.prune(spool, ["completed"], None, None) and None,
                    {"j": "completed"}, {"j": ""})
    yield Operation("config set", lambda spool: spool.change_config({"heartbeat": "5"}),
                    lambda spool, _, tell: spool.change_config({"heartbeat": "7", "jitter": "full"}))


__all__ = ["OLD", "POLICY", "Operation", "claimed", "ended", "operations", "record_for", "recover", "settlement"]
