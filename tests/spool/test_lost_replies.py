"""A network file system did what was asked, and its answer was lost: rows 24 to 27.

Each call is made and then answered with an error, one after the other. ENOENT (a rename repeated by the client) and
EEXIST (an exclusive creation repeated) are recognised; ESTALE is tried again; EIO is told, and nothing is lost by it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl.actions import requeue
from queuectl.config import load
from queuectl.errors import IdTaken, SpoolError
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.spool import Settlement, Spool
from tests.spool.faults import Fs, LyingFs
from tests.support import (
    adopt_all,
    age,
    body_of,
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

ERRORS = [errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EIO]
RECOGNISED = {("rename", errno.ENOENT), ("rename", errno.ESTALE), ("symlink", errno.EEXIST), ("open", errno.EEXIST),
              ("link", errno.EEXIST)}  # fmt: skip


def tell_each_lie(tmp_path: Path, error: int, play: Callable[[Spool, LyingFs, int], tuple[bool, Any]]) -> list[str]:
    """Play once for each call that can be lied about; the kinds of calls that were."""
    kinds: list[str] = []
    for k in range(1, 50):
        fs = LyingFs()
        spool = Spool(tmp_path / f"spool{k}", durability="none", fs=fs)
        failed, _ = play(spool, fs, k)
        if not fs.lied_about:
            return kinds
        kinds.append(fs.lied_about)
        if (fs.lied_about, error) in RECOGNISED:
            assert not failed, f"a {fs.lied_about} that was done and answered with {errno.errorcode[error]} is done"
    raise AssertionError("too many calls")


def attempt(fs: LyingFs, k: int, error: int, act: Callable[[], Any]) -> tuple[bool, Any]:
    """Act with a lie at the k-th call; whether it failed (as it may, with a SpoolError), and the result."""
    fs.arm(k, error)
    try:
        return False, act()
    except SpoolError as found:
        told = found
    finally:
        fs.left = 0
    assert told.errno == error
    assert told.path
    return True, None


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("job_id", [None, "job1"])
def test_enqueue(tmp_path: Path, error: int, job_id: str | None) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        members = {"id": job_id} if job_id else {}
        failed, _ = attempt(fs, k, error, lambda: spool.enqueue("true", **members))
        names = listing(spool, "pending")
        assert len(names) == 1 or (failed and names == [])
        age(spool)
        recover(spool)
        assert leftovers(spool) == []
        if job_id:
            with contextlib.suppress(IdTaken):
                spool.enqueue("true", id=job_id)
            assert len(places(spool, job_id)) == 1
        return failed, None

    assert "rename" in tell_each_lie(tmp_path, error, play)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_adopt(tmp_path: Path, error: int) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        drop(spool, "x.json", {"command": "true", "id": "job1"})
        failed, entry = attempt(fs, k, error, lambda: spool.adopt("x.json", time.time_ns()))
        assert failed or entry is not None
        if failed:
            adopt_all(spool)
        assert len(places(spool, "job1")) == len(listing(spool, "pending")) == 1
        return failed, entry

    assert tell_each_lie(tmp_path, error, play) == ["rename", "symlink", "rename"]


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESTALE, errno.EIO], ids=errno.errorcode.get)
def test_claim_and_take_over(tmp_path: Path, error: int) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        spool.enqueue("true", id="job1")
        entry = only(spool)
        failed, claim = attempt(fs, k, error, lambda: spool.claim(entry, "w", 1))
        assert failed == (claim is None)
        assert state_of(spool, "job1") == "processing", "its owner finds it among its claims (R4)"
        (claim,) = spool.claims()
        assert claim.worker == "w"
        failed_too, mine = attempt(fs, k, error, lambda: spool.take_over(claim, "me", 1))
        assert failed_too == (mine is None)
        (mine,) = spool.claims()
        assert mine.worker == "me"
        return failed, None

    assert tell_each_lie(tmp_path, error, play) == ["rename"]


@pytest.mark.parametrize("state", ["completed", "failed"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("recycled", [False, True], ids=["new file", "recycled file"])
def test_settle_goes_on_where_it_stopped(tmp_path: Path, error: int, state: str, recycled: bool) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        with Lease(spool, ROLE_WORKER) as lease:
            spares: list[str] = []
            if recycled:
                spool.enqueue("true", id="earlier")
                run_once(spool, lease, "earlier", spares=spares)
            spool.enqueue("true", id="job1")
            claim = spool.claim(only(spool), lease.worker, lease.next())
            assert claim is not None
            one = settlement(spool, claim, state)
            failed, _ = attempt(fs, k, error, lambda: spool.settle([one], spares))
            if failed:
                spool.settle([one], spares)
            assert one.step == Settlement.PUBLISHED
            assert state_of(spool, "job1") == state
            assert len(spares) == len(set(spares))
            for name in spares:
                spool.remove_temporary(name)
            assert [name for name in leftovers(spool) if "draft" not in name] == []
        age(spool)
        recover(spool)
        assert leftovers(spool) == []
        return failed, None

    assert tell_each_lie(tmp_path, error, play).count("rename") == 3


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_reject(tmp_path: Path, error: int) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        drop(spool, "x.json", b"no job")
        failed, _ = attempt(fs, k, error, lambda: spool.reject("pending", "x.json", "why"))
        if listing(spool, "pending"):
            spool.reject("pending", "x.json", "why")
        ((name, reason),) = spool.rejected()
        assert Path(spool.dir("dead") + name).read_bytes() == b"no job"
        assert reason == "why"
        return failed, None

    assert tell_each_lie(tmp_path, error, play) == ["open", "rename"]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_lease(tmp_path: Path, error: int) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        failed, lease = attempt(fs, k, error, lambda: Lease(spool, ROLE_WORKER))
        if lease is None:
            assert listing(spool, "workers") == [], "who has no lease leaves none behind"
        else:
            (info,) = Census(spool, 120.0).look(0.0)
            assert (info.id, info.alive) == (lease.worker, True)
            assert lease.renew()
            lease.release()
        return failed, None

    assert tell_each_lie(tmp_path, error, play) == ["open", "rename"]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_settings(tmp_path: Path, error: int) -> None:
    def play(spool: Spool, fs: LyingFs, k: int) -> tuple[bool, Any]:
        spool.change_config({"max-retries": "5"})
        failed, _ = attempt(fs, k, error, lambda: spool.change_config({"max-retries": "6"}))
        if failed:
            spool.change_config({"max-retries": "6"})
        assert load(spool.config_path, {}).max_retries == 6
        age(spool)
        recover(spool)
        assert leftovers(spool) == []
        return failed, None

    assert tell_each_lie(tmp_path, error, play) == ["open", "rename"]


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EEXIST, errno.EIO], ids=errno.errorcode.get)
def test_making_a_spool(tmp_path: Path, error: int) -> None:
    for k in range(1, 10):
        fs = LyingFs()
        fs.arm(k, error)
        try:
            Spool(tmp_path / f"s{k}", durability="none", fs=fs)
        except SpoolError:
            pass
        spool = Spool(tmp_path / f"s{k}", durability="none")
        assert spool.enqueue("true")
        age(spool)
        recover(spool)
        assert leftovers(spool) == []
        if not fs.lied_about:
            return
    raise AssertionError("too many calls")


# -- repeated late, and read from a stale cache -----------------------------------------------------------------------


def test_a_rename_that_a_network_repeats_late_finds_nothing_to_move(tmp_path: Path) -> None:
    """Row 25: whatever was renamed in a job's life is asked for once more, at the end."""
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="job1")
        spares: list[str] = []
        for state in ("failed", "pending", "failed", "dead"):
            run_once(spool, lease, "job1", state, spares)
        for name, args in [*fs.calls]:
            if name == "rename" and "workers/" not in args[1]:
                source = os.path.basename(args[0])
                assert source in spares or not os.path.exists(args[0])
    assert places(spool, "job1") == ["dead/job1.json"]


@pytest.mark.parametrize("clock", [0, -3600], ids=["", "the requeuer's clock is an hour behind"])
def test_a_requeue_that_a_network_repeats_after_the_job_has_died_again_requeues_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: int
) -> None:
    """Row 25: dead/<id>.json is the one name that comes back."""
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="job1")
        run_once(spool, lease, "job1", "dead")
        real = time.time_ns
        with monkeypatch.context() as patched:
            patched.setattr(time, "time_ns", lambda: real() + clock * 10**9)
            assert requeue(spool, "job1")
        (repeated,) = [args for name, args in fs.calls if name == "rename" and args[0].endswith("dead/job1.json")]
        run_once(spool, lease, "job1", "dead")
    before = body_of(spool, "job1")
    for _ in range(3):
        os.rename(*repeated)
        said = recover(spool)
        assert places(spool, "job1") == ["dead/job1.json"]
        assert "an old request to requeue it was repeated" in " ".join(said)
    after = body_of(spool, "job1")
    assert {**after, "updated_at": 0, "claim": 0} == {**before, "updated_at": 0, "claim": 0}
    assert requeue(spool, "job1"), "whoever asks now is heard"


def test_a_requeue_whose_asker_died_at_once_is_no_repeated_one(tmp_path: Path) -> None:
    class Dies(Fs):
        def after(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and args[0].endswith("dead/job1.json"):
                raise KeyboardInterrupt

    spool = Spool(tmp_path / "spool", durability="none")
    with Lease(spool, ROLE_WORKER) as lease:
        spool.enqueue("true", id="job1")
        run_once(spool, lease, "job1", "dead")
    with pytest.raises(KeyboardInterrupt):
        requeue(Spool(spool.root, durability="none", fs=Dies()), "job1")
    assert places(spool, "job1")[0].startswith("processing/")
    recover(spool)
    assert state_of(spool, "job1") in ("pending", "failed")


def test_a_file_whose_handle_is_stale_is_opened_again(tmp_path: Path) -> None:
    """Row 27."""

    class Stale(Fs):
        def __init__(self, times: int, call: str) -> None:
            super().__init__()
            self.times, self.call = times, call

        def _lose(self, call: str) -> None:
            if self.call == call and self.times:
                self.times -= 1
                raise OSError(errno.ESTALE, "Stale file handle")

        def open(self, path: str, flags: int, *rest: Any) -> int:
            self._lose("open")
            return os.open(path, flags, *rest)

        def fstat(self, fd: int) -> os.stat_result:
            self._lose("fstat")
            return os.fstat(fd)

        def read(self, fd: int, size: int) -> bytes:
            self._lose("read")
            return os.read(fd, size)

    spool = Spool(tmp_path / "spool", durability="none")
    spool.enqueue("true", id="job1")
    for call in ("open", "fstat", "read"):
        for times in (1, 2):
            assert Spool(spool.root, durability="none", fs=Stale(times, call)).load(only(spool)) is not None
        with pytest.raises(SpoolError) as caught:
            Spool(spool.root, durability="none", fs=Stale(9, call)).load(only(spool))
        assert caught.value.errno == errno.ESTALE
