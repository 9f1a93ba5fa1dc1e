"""Settling: the new record beside, the fence, the destination; what is written is what was decided, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from queuectl.core.backoff import Policy
from queuectl.core.names import Claim, Record, parse_waiting
from queuectl.core.times import next_stamp
from queuectl.lease import ROLE_CLI, Lease
from queuectl.recover import Recovery
from queuectl.spool import Entry, Settlement, Spool
from tests.spool.faults import Fs
from tests.support import body_of, leftovers, listing, only, places, run_once, settle, settlement, state_of

STATES = ["completed", "dead", "failed", "pending"]


def claimed(spool: Spool, lease: Lease, job_id: str = "job1", **members: Any) -> Claim:
    spool.enqueue("true", id=job_id, **members)
    entry = spool.find(job_id)
    assert entry is not None
    claim = spool.claim(entry, lease.worker, lease.next())
    assert claim is not None
    return claim


@pytest.fixture
def lease(spool: Spool) -> Any:
    with Lease(spool, ROLE_CLI) as held:
        yield held


@pytest.mark.parametrize("state", STATES)
def test_a_settled_job_is_one_file_in_its_new_state_with_its_new_record(
    spool: Spool, lease: Lease, state: str
) -> None:
    claim = claimed(spool, lease, priority=5, note="kept")
    spares: list[str] = []
    assert settle(spool, claim, state, spares) == Settlement.PUBLISHED
    (place,) = places(spool, "job1")
    assert place.startswith(state + "/")
    body = body_of(spool, "job1")
    assert (body["note"], body["attempts"], len(body["history"])) == ("kept", 0 if state == "pending" else 1, 1)
    assert leftovers(spool) == spares == [claim.spent]
    if state in ("pending", "failed"):
        waiting = parse_waiting(place.partition("/")[2])
        assert waiting is not None
        assert waiting.not_before > claim.not_before, "no name is used twice"
        assert (waiting.priority, waiting.attempts) == (5, 0 if state == "pending" else 1)
    else:
        assert place == f"{state}/job1.json"


@pytest.mark.parametrize("state", STATES)
def test_whoever_lost_the_lease_meets_the_fence_and_its_result_is_dropped(
    spool: Spool, lease: Lease, state: str
) -> None:
    """Row 16."""
    claim = claimed(spool, lease)
    late = settlement(spool, claim, state)
    mine = spool.take_over(claim, "another", 1)
    assert mine is not None
    assert settle(spool, mine, "failed") == Settlement.PUBLISHED
    spool.settle([late], [])
    assert late.step == Settlement.REFUSED
    assert state_of(spool, "job1") == "failed"
    sweep_own(spool, lease)
    assert leftovers(spool) == []


def test_a_record_that_a_recoverer_has_published_is_taken_as_published(spool: Spool, lease: Lease) -> None:
    """A worker freezes between the fence and step 3, and somebody else does step 3."""
    claim = claimed(spool, lease)
    one = settlement(spool, claim, "completed")

    class Helped(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and "completed/" in args[1]:
                os.rename(args[0], args[1])

    Spool(spool.root, durability="none", fs=Helped()).settle([one], [])
    assert one.step == Settlement.PUBLISHED
    assert state_of(spool, "job1") == "completed"


def test_a_steady_worker_neither_creates_nor_unlinks(tmp_path: Path) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    with Lease(spool, ROLE_CLI) as lease:
        spares: list[str] = []
        for n in range(5):
            claim = claimed(spool, lease, f"job{n}", note="x" * (50 * (5 - n)))
            fs.calls.clear()
            assert settle(spool, claim, "completed", spares) == Settlement.PUBLISHED
            made = [args[1] & os.O_CREAT for name, args in fs.calls if name == "open"]
            assert any(made) == (n == 0)
            assert "unlink" not in [name for name, _ in fs.calls]
            assert len(spares) == 1
    for n in range(5):
        assert body_of(spool, f"job{n}")["note"] == "x" * (50 * (5 - n))


def test_a_spare_that_cannot_be_used_is_removed_and_not_left_lying(spool: Spool, lease: Lease) -> None:
    tmp = spool.dir(".tmp")
    Path(tmp + "linked=spent").write_text("x")
    os.link(tmp + "linked=spent", os.path.join(spool.root, "elsewhere"))
    claim = claimed(spool, lease)
    spares = ["gone=spent", "linked=spent"]
    assert settle(spool, claim, "completed", spares) == Settlement.PUBLISHED
    assert leftovers(spool) == spares == [claim.spent]
    assert Path(spool.root, "elsewhere").read_text() == "x"


def test_with_a_spare_of_some_size_in_hand_no_new_file_is_needed(spool: Spool, lease: Lease) -> None:
    """Row 39: what an ended job needs on a full disk."""
    spares = [spool.make_spare(lease.worker, 1)]
    assert os.stat(spool.dir(".tmp") + spares[0]).st_size == 4096
    claim = claimed(spool, lease)
    inode = os.stat(spool.dir(".tmp") + spares[0]).st_ino
    assert settle(spool, claim, "completed", spares) == Settlement.PUBLISHED
    assert os.stat(spool.dir("completed") + "job1.json").st_ino == inode


def test_a_batch_shares_its_syncs_and_passes_no_fence_before_its_records_are_safe(tmp_path: Path) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="fsync", fs=fs)
    with Lease(spool, ROLE_CLI) as lease:
        batch = [settlement(spool, claimed(spool, lease, f"job{n}"), state) for n, state in enumerate(STATES)]
        fs.calls.clear()
        spool.settle(batch, [])
    assert {one.step for one in batch} == {Settlement.PUBLISHED}
    steps = []
    for name, args in fs.calls:
        if name == "rename":
            source, target = (os.path.basename(os.path.dirname(path)) for path in args)
            steps.append({(".tmp", ".tmp"): "record", ("processing", ".tmp"): "fence"}.get((source, target), "publish"))
        elif name == "fsync":
            steps.append("sync")
    assert steps[:4] == ["record"] * 4
    assert steps[4:9] == ["sync"] * 5, "each record, and .tmp/ once"
    assert steps[9:17] == ["fence", "publish"] * 4
    assert steps[17:] == ["sync"] * 4, "each destination once"


def test_one_refused_in_a_batch_holds_up_none_of_the_others(spool: Spool, lease: Lease) -> None:
    claims = [claimed(spool, lease, f"job{n}") for n in range(3)]
    batch = [settlement(spool, claim, "completed") for claim in claims]
    os.unlink(spool.dir("processing") + claims[1].name)
    spares: list[str] = []
    spool.settle(batch, spares)
    assert [one.step for one in batch] == [Settlement.PUBLISHED, Settlement.REFUSED, Settlement.PUBLISHED]
    sweep_own(spool, lease)
    assert leftovers(spool) == sorted(spares)


def test_settling_again_what_is_settled_changes_nothing(spool: Spool, lease: Lease) -> None:
    one = settlement(spool, claimed(spool, lease), "completed")
    spares: list[str] = []
    spool.settle([one], spares)
    before = os.stat(spool.dir("completed") + "job1.json")
    spool.settle([one], spares)
    assert os.stat(spool.dir("completed") + "job1.json").st_ino == before.st_ino
    assert len(spares) == 1


@pytest.mark.parametrize("directory", ["completed", ".tmp"])
def test_a_directory_that_was_removed_is_made_again_and_no_job_is_lost(
    spool: Spool, lease: Lease, directory: str
) -> None:
    """`mv spool/completed /archive` while a worker works."""
    claim = claimed(spool, lease)
    one = settlement(spool, claim, "completed")
    os.rename(spool.dir(directory).rstrip("/"), os.path.join(spool.root, "archive"))
    spool.settle([one], [])
    assert one.step == Settlement.PUBLISHED
    assert state_of(spool, "job1") == "completed"


@pytest.mark.parametrize("directory", ["processing", "pending", "dead", "logs", "workers"])
def test_other_directories_that_were_removed_are_made_again_too(spool: Spool, directory: str) -> None:
    os.rename(spool.dir(directory).rstrip("/"), os.path.join(spool.root, "archive"))
    spool.enqueue("true", id="job1")
    os.close(spool.open_log("x.log"))
    with Lease(spool, ROLE_CLI) as lease:
        run_once(spool, lease, "job1")
        Path(spool.dir("pending") + "bad.json").write_text("")
        assert spool.reject("pending", "bad.json", "why")


def test_many_lives_of_one_job_use_no_name_twice(tmp_path: Path) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    with Lease(spool, ROLE_CLI) as lease:
        spool.enqueue("true", id="job1")
        for state in ["failed", "pending", "failed", "pending", "pending", "failed", "dead"]:
            run_once(spool, lease, "job1", state)
    targets = [args[1] for name, args in fs.calls if name == "rename" and "draft" not in args[1]]
    assert len(targets) == len(set(targets))


def test_a_file_that_was_removed_by_hand_while_its_job_ran_stays_removed(spool: Spool, lease: Lease) -> None:
    one = settlement(spool, claimed(spool, lease), "completed")
    os.unlink(spool.dir("processing") + listing(spool, "processing")[0])
    spool.settle([one], [])
    assert one.step == Settlement.REFUSED
    sweep_own(spool, lease)
    assert places(spool, "job1") == leftovers(spool) == []


@pytest.mark.parametrize("state", STATES)
def test_a_fence_that_was_passed_though_all_signs_said_no_loses_no_job(
    tmp_path: Path, state: str
) -> None:
    """The reply to the fencing rename is lost, and a stale cache hides both of its ends: the settle is refused, but
    the record stays, and the holder finds it at its next look (a hole that the search in tests/model found)."""
    lies = Lies()
    spool = Spool(tmp_path / "spool", durability="none", fs=lies)
    with Lease(spool, ROLE_CLI) as lease:
        claim = claimed(spool, lease)
        one = settlement(spool, claim, state)
        lies.on = True
        spool.settle([one], [])
        lies.on = False
        assert one.step == Settlement.REFUSED
        assert places(spool, "job1") == []
        sweep_own(spool, lease)
        assert state_of(spool, "job1") == state


class Lies:
    """A file system that executes the fence, says ENOENT, and shows neither end of it."""

    on = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)
        if self.on and target.endswith("=spent"):
            raise FileNotFoundError(2, "No such file or directory", source)

    def lstat(self, path: str) -> os.stat_result:
        if self.on and (path.endswith("=spent") or "/processing/" in path):
            raise FileNotFoundError(2, "No such file or directory", path)
        return os.lstat(path)


def sweep_own(spool: Spool, lease: Lease) -> None:
    """What a holder of a lease does at each look around, with nothing being settled."""
    Recovery(spool, lease, lambda: Policy(), lambda level, text: None).finish_own(set())


def test_the_record_of_a_job_without_an_id_in_it_gets_one(spool: Spool, lease: Lease) -> None:
    name = "20200101T000000.000000Z.p0.a0.job1.json"
    Path(spool.dir("pending") + name).write_text('{"command": "true"}')
    entry = only(spool)
    assert isinstance(entry, Entry)
    run_once(spool, lease, "job1")
    assert body_of(spool, "job1")["id"] == "job1"


def test_a_job_that_comes_out_of_a_settle_while_it_is_looked_for_is_found(
    spool: Spool, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fenced when the directories were listed, and at its place when .tmp/ was: it was told that there is no job."""
    claim = claimed(spool, lease)
    record = Record(claim, "pending", next_stamp(claim.not_before))
    tmp = Path(spool.dir(".tmp"))
    (tmp / record.name).write_text('{"command": "true"}')
    os.rename(spool.dir("processing") + claim.name, tmp / claim.spent)
    look = spool.temporary

    def published_just_before() -> Any:
        if (tmp / record.name).exists():
            os.rename(tmp / record.name, spool.dir("pending") + record.target)
            os.unlink(tmp / claim.spent)
        return look()

    monkeypatch.setattr(spool, "temporary", published_just_before)
    found = spool.find("job1")
    assert found is not None
    assert found.state == "pending"
