"""A disk that is full, over quota, read-only or broken: rows 38 to 43. Each call fails in turn; the user is told where
and why, nothing is left behind, and it works again when the disk does."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl import actions
from queuectl.core.names import Record, dropped_name
from queuectl.errors import SPOOL, SpoolError
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.settling import Settler
from queuectl.spool import Settlement, Spool
from tests.spool.faults import FailingFs, every_call
from tests.support import adopt_all, drop, leftovers, listing, only, places, run_once, settlement, state_of, whole_tree

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]
REMEDY = {
    errno.ENOSPC: "The disk, or its inodes, are used up: make room, for example with `queuectl prune --older-than 1d`.",
    errno.EDQUOT: "The quota is used up: make room, for example with `queuectl prune --older-than 1d`.",
    errno.EROFS: "The file system is read-only: see why in dmesg, and mount it for writing.",
    errno.EIO: "The disk reports an error: see dmesg.",
}
names = errno.errorcode.get


def fails(spool: Spool, error: int, act: Callable[[], Any]) -> bool:
    """Whether `act` fails; if so, it must say where and why, and what to do."""
    try:
        act()
    except SpoolError as found:
        check(found, spool, error)
        return True
    return False


def check(found: SpoolError, spool: Spool, error: int) -> None:
    assert found.errno == error
    assert found.exit_code == SPOOL
    assert found.path.startswith(spool.root)
    assert str(found).startswith("Could not ")
    assert str(found).endswith(f"{found.path}: {os.strerror(error)}. {REMEDY[error]}")


@pytest.mark.parametrize("error", ERRORS, ids=names)
@pytest.mark.parametrize("durability", ["none", "fsync"])
def test_enqueue_says_so_and_leaves_nothing_behind(tmp_path: Path, error: int, durability: str) -> None:
    fs = FailingFs()
    spool = Spool(tmp_path / "spool", durability=durability, fs=fs)

    def run(k: int) -> bool:
        fs.arm(k, error)
        failed = fails(spool, error, lambda: spool.enqueue("true", id=f"job{k}"))
        reached = fs.was_reached
        fs.heal()
        assert failed == reached
        assert leftovers(spool) == []
        if failed and places(spool, f"job{k}"):
            assert durability == "fsync", "only the sync of pending/ fails after the job is there"
        elif failed:
            assert spool.enqueue("true", id=f"job{k}") == f"job{k}", "the id is free, and all works again"
        return not reached

    assert every_call(run) >= 4


@pytest.mark.parametrize("error", ERRORS, ids=names)
def test_a_batch_that_fails_in_the_middle_keeps_what_it_had_accepted(tmp_path: Path, error: int) -> None:
    def run(k: int) -> bool:
        fs = FailingFs()
        spool = Spool(tmp_path / f"spool{k}", durability="none", fs=fs)
        fs.arm(k, error)
        batch = [{"command": "true", "id": f"job{n}"} for n in range(3)]
        failed = fails(spool, error, lambda: spool.enqueue_many(batch))
        fs.heal()
        assert leftovers(spool) == []
        accepted = [len(places(spool, f"job{n}")) for n in range(3)]
        assert accepted == sorted(accepted, reverse=True)
        assert failed or accepted == [1, 1, 1]
        missing = batch[sum(accepted) :]
        assert spool.enqueue_many(missing) == [str(one["id"]) for one in missing]
        return not failed

    assert every_call(run) >= 9


@pytest.mark.parametrize("error", ERRORS, ids=names)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("durability", ["none", "fsync"])
def test_a_settle_keeps_the_outcome_and_goes_on_when_the_disk_does(
    tmp_path: Path, error: int, lasting: bool, durability: str
) -> None:
    """Row 39: an outcome is never lost, and a command never run again for it."""

    def run(k: int) -> bool:
        fs = FailingFs()
        spool = Spool(tmp_path / f"spool{k}", durability=durability, fs=fs)
        with Lease(spool, ROLE_WORKER) as lease:
            spool.set_durability("none")
            spool.enqueue_many([{"command": "true", "id": name} for name in ("early", "a", "b")])
            spares: list[str] = []
            run_once(spool, lease, "early", spares=spares)
            batch = []
            for name, state in (("a", "completed"), ("b", "failed")):
                entry = spool.find(name)
                assert entry is not None
                claim = spool.claim(entry, lease.worker, lease.next())
                assert claim is not None
                batch.append(settlement(spool, claim, state))
            spool.set_durability(durability)
            fs.arm(k, error, lasting=lasting)
            tries = 0
            while fails(spool, error, lambda: spool.settle(batch, spares)):
                tries += 1
                assert fs.was_reached
                assert all(len(places(spool, name)) + (one.step == Settlement.FENCED) == 1
                           for name, one in zip("ab", batch, strict=True))  # fmt: skip
                if tries == 3:
                    fs.lasting = False
            reached = fs.was_reached
            fs.heal()
            assert [state_of(spool, name) for name in "ab"] == ["completed", "failed"]
            # A draft that could not be removed either is swept later.
            left = [name for name in leftovers(spool) if not (lasting and name.endswith("=draft"))]
            assert left == sorted(spares), "what is recycled is known; nothing else is left"
            assert len(spares) <= 3
        return not reached

    assert every_call(run) >= 6


@pytest.mark.parametrize("error", ERRORS, ids=names)
@pytest.mark.parametrize("act", ["claim", "take over", "adopt", "reject", "lease", "request", "config", "prune"])
def test_any_other_operation_says_so_and_can_be_repeated(tmp_path: Path, error: int, act: str) -> None:
    def run(k: int) -> bool:
        fs = FailingFs()
        spool = Spool(tmp_path / f"spool{k}", durability="none", fs=fs)
        spool.enqueue("true", id="job1")
        entry = only(spool)
        acts: dict[str, Callable[[], Any]] = {
            "claim": lambda: spool.claim(entry, "w", 1),
            "adopt": lambda: adopt_all(spool),
            "reject": lambda: spool.reject("pending", "x.json", "why"),
            "lease": lambda: Lease(spool, ROLE_WORKER).release(),
            "request": lambda: spool.put_request("w.stop"),
            "config": lambda: spool.change_config({"max-retries": "9"}),
        }
        if act == "take over":
            claim = spool.claim(entry, "w", 1)
            assert claim is not None
            acts[act] = lambda: spool.take_over(claim, "me", 1)
        if act == "prune":
            with Lease(spool, ROLE_WORKER) as lease:
                run_once(spool, lease, "job1")
            acts[act] = lambda: actions.prune(spool, ["completed"], None, None)
        if act in ("adopt", "reject"):
            drop(spool, "x.json", {"command": "true", "id": "x"})
        before = whole_tree(spool)
        fs.arm(k, error, kinds=("open", "write", "rename", "symlink", "fsync", *(["unlink"] if act == "prune" else [])))
        failed = fails(spool, error, acts[act])
        reached = fs.was_reached
        fs.heal()
        if failed:
            after = whole_tree(spool)
            del after[".ids"], before[".ids"]
            after["pending"] = sorted(map(dropped_name, after["pending"]))
            assert after == before, "what failed left nothing behind"
            assert not fails(spool, error, acts[act])
        return not reached

    assert every_call(run) >= (0 if act == "prune" else 1)


@pytest.mark.parametrize("error", ERRORS, ids=names)
def test_making_a_spool_says_so_and_can_be_repeated(tmp_path: Path, error: int) -> None:
    def run(k: int) -> bool:
        fs = FailingFs()
        root = tmp_path / f"spool{k}"
        fs.arm(k, error, kinds=("mkdir", "open", "write", "fsync", "link"))
        said = ""
        try:
            Spool(root, durability="none", fs=fs)
        except SpoolError as found:
            said = str(found)
        assert bool(said) == fs.was_reached
        if said:
            assert said.startswith(f"Could not make the spool: {root}")
            assert said.endswith(REMEDY[error])
        spool = Spool(root, durability="none")
        assert spool.enqueue("true")
        assert leftovers(spool) == []
        return not said

    assert every_call(run) >= 12


class Unsyncable(FailingFs):
    def fsync(self, fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        os.fsync(fd)


def test_a_directory_that_cannot_be_synced_has_nothing_to_sync(tmp_path: Path) -> None:
    """Row 47: some file systems answer EINVAL to fsync of a directory."""
    assert Spool(tmp_path / "spool", durability="fsync", fs=Unsyncable()).enqueue("true")


class Unreadable(FailingFs):
    def listdir(self, path: str) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    scandir = listdir


def test_listing_a_broken_directory_says_so(tmp_path: Path) -> None:
    Spool(tmp_path / "spool")
    spool = Spool(tmp_path / "spool", durability="none", fs=Unreadable())
    for look in (lambda: spool.names("pending"), lambda: list(spool.entries()), spool.counts, lambda: spool.find("x")):
        with pytest.raises(SpoolError) as caught:
            look()
        assert str(caught.value) == (
            f"Could not list the spool: {spool.dir(caught.value.path.split('/')[-2])}: Input/output error."
            " The disk reports an error: see dmesg."
        )


def test_pruning_on_a_read_only_disk_is_not_nothing_to_prune(tmp_path: Path) -> None:
    fs = FailingFs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    spool.enqueue("true", id="job1")
    with Lease(spool, ROLE_WORKER) as lease:
        run_once(spool, lease, "job1")
    fs.arm(1, errno.EROFS, lasting=True)
    with pytest.raises(SpoolError, match=r"job1\.json: Read-only file system\. The file system is read-only"):
        actions.prune(spool, ["completed"], None, None)
    assert listing(spool, "completed") == ["job1.json"]


def test_a_worker_that_leaves_while_the_disk_refuses_does_not_spin(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SpoolError("full", errno=errno.ENOSPC)

    monkeypatch.setattr(spool, "write_records", refuse)
    settler = Settler(spool, lambda: None)
    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="x")
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        settler.add(Settlement(Record(claim, "completed"), b"{}"))
        before = time.thread_time()
        settler.flush(0.5)
        assert time.thread_time() - before < 0.1, "half a second, but not of the processor's time"
    settler.close()
