"""Claims: one rename, one winner, and a name that is nobody else's."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest

from queuectl.core.names import parse_claim
from queuectl.errors import BadJob
from queuectl.lease import ROLE_CLI, Lease
from queuectl.spool import Spool
from tests.spool.faults import Fs
from tests.support import at_once, body_of, drop, listing, only, places, settle, state_of


def test_a_claim_says_who_has_the_job_and_counts_the_attempt_in_the_same_rename(tmp_path: Any) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    spool.enqueue("true", id="job1", priority=3)
    fs.calls.clear()
    claim = spool.claim(only(spool), "host-1-abc", 7)
    assert claim is not None
    assert [name for name, _ in fs.calls] == ["rename"]
    assert listing(spool, "processing") == [claim.name]
    assert claim.name.endswith(".p3.a1.job1@host-1-abc.7.json")
    assert spool.claims() == [claim]


def test_a_loser_gets_none_and_no_error(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    entry = only(spool)
    assert spool.claim(entry, "winner", 1) is not None
    assert spool.claim(entry, "loser", 1) is None
    assert spool.claim(entry, "winner", 2) is None
    assert len(listing(spool, "processing")) == 1


def test_a_claim_that_starts_no_attempt_counts_none(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    claim = spool.claim(only(spool), "cli", 1, counted=False)
    assert claim is not None
    assert claim.attempts == 0


def test_a_claim_keeps_the_file_as_it_is(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    before = os.stat(spool.path_of(only(spool)))
    claim = spool.claim(only(spool), "w", 1)
    assert claim is not None
    after = os.stat(spool.dir("processing") + claim.name)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_reading_a_claim_that_is_gone_gives_none(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    claim = spool.claim(only(spool), "w", 1)
    assert claim is not None
    os.unlink(spool.dir("processing") + claim.name)
    assert spool.read_claim(claim) is None


def test_a_claim_is_taken_over_once(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    claim = spool.claim(only(spool), "dead", 1)
    assert claim is not None
    mine = spool.take_over(claim, "one", 4)
    assert mine is not None
    assert (mine.worker, mine.n, mine.stem) == ("one", 4, claim.stem), "the attempt was counted when it began"
    assert spool.take_over(claim, "other", 1) is None
    assert listing(spool, "processing") == [mine.name]


def test_a_canonical_name_with_bad_content_is_found_out_when_it_is_read(spool: Spool) -> None:
    drop(spool, "20200101T000000.000000Z.p0.a0.job1.json", b"no job")
    claim = spool.claim(only(spool), "w", 1)
    assert claim is not None
    with pytest.raises(BadJob):
        spool.read_claim(claim)
    assert spool.reject("processing", claim.name, "why") == f"{claim.name}.rejected"


def test_a_hard_linked_double_of_a_job_never_runs(spool: Spool) -> None:
    """Row 22: rename of one link over another does nothing and reports success."""
    spool.enqueue("true", id="job1")
    entry = only(spool)
    twin = "20200101T000000.000000Z.p0.a0.job1.json"
    os.link(spool.path_of(entry), spool.dir("pending") + twin)
    for n, one in enumerate(list(spool.entries(["pending"]))):
        claim = spool.claim(one, "w", n + 1)
        assert claim is not None
        with pytest.raises(BadJob, match="2 names"):
            spool.read_claim(claim)


CLAIM = """
import sys
from queuectl import Spool
from queuectl.lease import Lease
spool = Spool(sys.argv[1], durability="none")
lease = Lease(spool, "worker")
input()
won = []
for entry in list(spool.entries(["pending", "failed"])):
    claim = spool.claim(entry, lease.worker, lease.next())
    if claim is not None:
        assert spool.read_claim(claim).id == entry.id
        won.append(entry.id)
print(*won)
"""


def test_many_processes_claim_each_job_exactly_once(spool: Spool) -> None:
    """Row 15, in small; with whole workers it stands in tests/race."""
    ids = spool.enqueue_many([{"command": "true"}] * 400)
    won = at_once(CLAIM, [[spool.root]] * 4)
    assert Counter(" ".join(won).split()) == Counter(ids)
    assert len(listing(spool, "processing")) == 400
    assert listing(spool, "pending") == []
    assert all(parse_claim(name) for name in listing(spool, "processing"))


# -- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "processing", "completed", "failed", "dead"])
def test_a_job_is_found_in_every_state(spool: Spool, state: str) -> None:
    spool.enqueue("true", id="job1", priority=2)
    spool.enqueue("true", id="job11")
    with Lease(spool, ROLE_CLI) as lease:
        if state != "pending":
            claim = spool.claim(next(e for e in spool.entries() if e.id == "job1"), lease.worker, lease.next())
            assert claim is not None
            if state != "processing":
                settle(spool, claim, state)
        entry = spool.find("job1")
        assert entry is not None
        assert f"{entry.state}/{entry.name}" in places(spool, "job1")
        assert entry.state == state_of(spool, "job1") == state
        job = spool.load(entry)
        assert job is not None
        assert job.body == body_of(spool, "job1")
        assert spool.counts()[state] == (2 if state == "pending" else 1)


@pytest.mark.parametrize("job_id", ["nobody", "", "../job1", "job1.json", "*", "job1\n", "a" * 500])
def test_what_is_not_there_is_not_found(spool: Spool, job_id: str) -> None:
    spool.enqueue("true", id="job1")
    assert spool.find(job_id) is None


def test_a_job_that_moves_while_it_is_looked_for_is_not_missed(tmp_path: Any) -> None:
    """It goes through .tmp/ between two listings."""
    spool = Spool(tmp_path / "spool", durability="none")
    spool.enqueue("true", id="job1")
    claim = spool.claim(only(spool), "w", 1)
    assert claim is not None
    inside, outside = spool.dir("processing") + claim.name, spool.dir(".tmp") + claim.spent
    os.rename(inside, outside)

    class Mover(Fs):
        looks = 0

        def listdir(self, path: str) -> list[str]:
            if path.endswith(".tmp/") and (found := os.listdir(path)):
                os.rename(outside, spool.dir("completed") + "job1.json")
                return found
            return os.listdir(path)

    entry = Spool(spool.root, durability="none", fs=Mover()).find("job1")
    assert entry is not None
    assert entry.state == "completed"


def test_listing_reads_no_file(tmp_path: Any) -> None:
    class NoReading(Fs):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("a listing needs names only")

    spool = Spool(tmp_path / "spool", durability="none")
    spool.enqueue_many([{"command": "true", "priority": n} for n in range(3)])
    quiet = Spool(spool.root, durability="none", fs=NoReading())
    assert sorted(entry.priority for entry in quiet.entries()) == [0, 1, 2]
    assert quiet.counts()["pending"] == 3


def test_a_short_read_is_not_taken_for_the_whole_file(tmp_path: Any) -> None:
    class Sip(Fs):
        def read(self, fd: int, size: int) -> bytes:
            return os.read(fd, min(size, 7))

    spool = Spool(tmp_path / "spool", durability="none")
    spool.enqueue("echo " + "x" * 100, id="job1")
    job = Spool(spool.root, durability="none", fs=Sip()).load(only(spool))
    assert job is not None
    assert job.command == "echo " + "x" * 100


def test_a_file_that_grows_without_end_is_read_to_a_limit(tmp_path: Any) -> None:
    """Row 72."""
    sizes = []

    class Growing(Fs):
        def read(self, fd: int, size: int) -> bytes:
            sizes.append(size)
            return b"x" * size

    spool = Spool(tmp_path / "spool", durability="none")
    drop(spool, "x.json", b"x" * 100)
    with pytest.raises(BadJob):
        Spool(spool.root, durability="none", fs=Growing()).adopt("x.json", time.time_ns())
    assert sum(sizes) < 2 << 20
