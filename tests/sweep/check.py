"""What must hold after a crash or an error at any point: the checker of the sweeps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from queuectl.core.names import dropped_name
from queuectl.errors import IdTaken
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.recover import settle_now
from queuectl.spool import Spool, entry_of
from tests.support import STATES, age, leftovers, listing, places
from tests.sweep.operations import Operation, recover, settlement


def recorded(spool: Spool) -> set[str]:
    """The jobs whose outcome is on record: they must not run again."""
    return {record.claim.id for record in spool.temporary()[0] if spool.read_record(record)}


def files_by_id(spool: Spool) -> dict[str, list[str]]:
    """All job files, by job. A foreign file has the id ""."""
    found: dict[str, list[str]] = {}
    for state in STATES:
        for name in listing(spool, state):
            if entry := entry_of(state, name):
                found.setdefault(entry.id, []).append(f"{state}/{name}")
    return found


def check(spool: Spool, operation: Operation, accepted: set[str], on_record: set[str], done: bool,
          tried_twice: bool = False) -> None:
    """Nothing lost, nothing doubled, nothing left behind, and the queue works. `done`: it ran to its end, if need be
    when it was `tried_twice`."""
    recover(spool)
    files = files_by_id(spool)
    doubled = {job_id: found for job_id, found in files.items() if len(found) > 1}
    assert not doubled, doubled
    for job_id in accepted:
        assert job_id in files, f"the accepted job {job_id} is lost"
    for job_id in operation.before.keys() | operation.after.keys():
        was, will_be = operation.before.get(job_id, ""), operation.after.get(job_id, "")
        found = files.get(job_id, [""])[0].partition("/")[0]
        wanted = {will_be} if done or job_id in on_record else {was, will_be}
        if tried_twice and operation.name in ("cancel", "requeue"):
            wanted |= {was, "failed"}  # its claim lay there when it was tried again: recovered as a lost attempt
        assert found in wanted, f"job {job_id} is in {found or 'no'} directory, not in {wanted}"
    dropped = operation.name.startswith(("adopt", "set"))
    aside = [name for name in listing(spool, "dead") if name.endswith(".rejected")]
    assert len(files) + len(aside) >= 1 or not dropped, "the dropped file is lost"
    assert not aside or operation.name.startswith("set"), f"set aside without a reason: {aside}"
    _check_clean(spool, files)
    _check_ids(spool, operation)
    _check_works(spool)


def _check_clean(spool: Spool, files: dict[str, list[str]]) -> None:
    age(spool)
    recover(spool)
    assert leftovers(spool) == []
    assert listing(spool, "processing") == []
    assert listing(spool, "workers") == []
    assert files_by_id(spool) == files, "a second recovery changed something"


def _check_ids(spool: Spool, operation: Operation) -> None:
    """A chosen id belongs to its job; one that has none can be used."""
    for job_id in {"mine"} | operation.before.keys() | operation.after.keys():
        if places(spool, job_id):
            with pytest.raises(IdTaken):
                spool.enqueue("true", id=job_id)
        elif not any(dropped_name(name) == "x.json" for name in listing(spool, "pending")):
            spool.enqueue("true", id=job_id)


def _check_works(spool: Spool) -> None:
    """All jobs can be brought to their end: adopted, claimed, settled."""
    for entry in spool.entries(["pending"]):
        if not entry.id and b"command" in Path(spool.path_of(entry)).read_bytes():
            assert spool.adopt(entry.name, time.time_ns())
    with Lease(spool, ROLE_WORKER) as lease:
        for entry in [entry for entry in spool.entries(["pending", "failed"]) if entry.id]:
            claim = spool.claim(entry, lease.worker, lease.next())
            assert claim is not None
            job = spool.read_claim(claim)
            assert job is not None
            assert settle_now(spool, settlement(claim, job, "completed"))
    files = files_by_id(spool)
    assert all(len(found) == 1 for found in files.values()), files
    assert leftovers(spool) == []
