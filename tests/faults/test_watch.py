"""Rows 60 to 64: directories that are replaced without a word, links, and a watcher that dies."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from queuectl.lookout import Lookout
from queuectl.spool import Spool
from tests.faults.patched import drops, patched
from tests.spool.test_tree import NOBODY, as_user, open_path
from tests.support import drop, listing, needs_root, until, worker

__all__ = ["open_path"]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def lookout(spool: Spool, said: list[str]) -> Iterator[Lookout]:
    looks = Lookout(
        spool, network=False, poll_interval=1.0, wall=time.time_ns, say=lambda level, text: said.append(text)
    )
    yield looks
    looks.wakeup.stop()


def test_row_60_pending_is_replaced_while_its_descriptor_is_held_so_that_no_event_tells(spool: Spool) -> None:
    with worker(spool) as process:
        drops(spool, "before")
        held = os.open(spool.dir("pending"), os.O_RDONLY)
        try:
            shutil.rmtree(spool.dir("pending"))
            os.mkdir(spool.dir("pending"), 0o700)  # of this the spool's own directory tells
            drops(spool, "after")
        finally:
            os.close(held)
        assert process.end() == 0


def test_row_62_pending_becomes_a_link_and_nothing_is_taken_from_behind_it(spool: Spool, tmp_path: Path) -> None:
    pending, away = spool.dir("pending").rstrip("/"), f"{tmp_path}/away"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    foreign = '{"command": "true", "id": "foreign"}'
    (elsewhere / "20200101T000000.000000Z.p0.a0.foreign.json").write_text(foreign)
    (elsewhere / "x.json").write_text(foreign)
    os.symlink(elsewhere, away)
    with worker(spool) as process:
        drops(spool, "before")
        exchange(pending, away)
        until(lambda: "is a symbolic link" in process.said, what="it says that pending/ is a link")
        exchange(pending, away)
        drops(spool, "after")
        assert process.end() == 0
    assert listing(spool, "completed") == ["after.json", "before.json"]
    assert len(list(elsewhere.iterdir())) == 2


def exchange(one: str, other: str) -> None:
    """Each gets the other's name, in one call (renameat2(2), RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, one.encode(), -100, other.encode(), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@needs_root
def test_row_63_a_directory_that_may_not_be_read_is_told_of_and_not_taken_for_an_empty_one(open_path: Path) -> None:
    root = open_path / "spool"
    Spool(root, durability="none")
    for name in ["", *os.listdir(root)]:
        os.chown(root / name, NOBODY, NOBODY)
    os.chmod(root / "pending", 0o300)
    for name in ("ctypes", "watchdog.observers.inotify_c"):  # another user may not be able to read them
        import_module(name)
    said: list[str] = []

    def look() -> str:
        lookout = Lookout(Spool(root), network=False, poll_interval=1.0, wall=time.time_ns,
                          say=lambda level, text: said.append(text))  # fmt: skip
        assert lookout.watch() == "listed every 1s"
        assert "Permission denied" in said[0]
        lookout.scan(0.0)
        return "it looked like an empty queue"

    assert as_user(NOBODY, NOBODY, look).startswith(
        f"SpoolError: Could not list the spool: {root}/pending/: Permission denied."
    )


def test_row_64_a_watcher_that_has_died_is_replaced_at_the_next_scan(
    spool: Spool, lookout: Lookout, said: list[str]
) -> None:
    assert lookout.watch() == "woken by inotify"
    lookout.scan(time.monotonic())
    died = lookout.wakeup._inotify
    died.stop()
    died.join(5)
    assert not lookout.wakeup.healthy()
    drop(spool, "x.json", {"command": "true"})  # nobody tells
    lookout.scan(time.monotonic())
    assert lookout.wakeup.healthy()
    assert len(lookout.admission) == 1, "the scan has seen what the dead watcher has not"
    lookout.wakeup.take()
    drop(spool, "y.json", {"command": "true"})
    assert select.select([lookout.wakeup.fileno()], [], [], 5)[0]
    assert said == ["watching anew"]


def test_row_64_watching_that_failed_once_is_tried_again_at_a_later_scan(
    spool: Spool, lookout: Lookout, tmp_path: Path
) -> None:
    lookout.watch()
    os.rename(spool.dir("failed"), tmp_path / "away")
    assert not lookout.wakeup.start(), "failed/ is gone just when it is watched anew"
    os.rename(tmp_path / "away", spool.dir("failed"))
    lookout.scan(time.monotonic())
    assert lookout.wakeup.healthy()


def test_row_62_nothing_is_taken_from_behind_a_link_while_the_spool_is_listed_either(
    spool: Spool, tmp_path: Path
) -> None:
    refuse = "import queuectl.wakeup as w\ndef start(self):\n    self.problem = 'no inotify'\n    return False\n" \
             "w.Wakeup.start = start\n"
    pending, away = spool.dir("pending").rstrip("/"), f"{tmp_path}/away"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.json").write_text('{"command": "true", "id": "foreign"}')
    os.symlink(tmp_path / "elsewhere", away)
    with patched(spool, refuse, "--poll-interval", "0.05") as process:
        drops(spool, "before")
        exchange(pending, away)
        until(lambda: "is a symbolic link" in process.said or spool.has_ended("foreign", "completed"), 5)
    assert listing(spool, "completed") == ["before.json"]
