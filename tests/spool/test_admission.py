"""Newcomers over time: who is still writing is waited for, who has finished is not, and nothing stops a worker."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from queuectl.admission import FIRST_LOOK, SETTLE_TIME, Admission
from queuectl.errors import SpoolError
from queuectl.spool import Spool
from tests.spool.faults import Fs
from tests.support import drop, listing

NOW = 1_795_338_930_000_000_000
HALF = b'{"command": "ec'
WHOLE = b'{"command": "echo hi"}'


class Watched(Admission):
    """An admission that remembers what it said."""

    def __init__(self, spool: Spool) -> None:
        self.said: list[str] = []
        super().__init__(spool, self.said.append)

    def see(self, name: str, now: float, *, closed: bool = False) -> list[str]:
        """A hint and a turn; the ids of what was adopted."""
        self.notice(name, now, closed=closed)
        return [entry.id for entry in self.turn(now, NOW)]


@pytest.fixture
def admission(spool: Spool) -> Watched:
    return Watched(spool)


def rejected(spool: Spool) -> list[str]:
    return [name for name in listing(spool, "dead") if name.endswith(".rejected")]


def test_a_whole_file_is_adopted_at_once(spool: Spool, admission: Watched) -> None:
    drop(spool, "x.json", WHOLE)
    assert len(admission.see("x.json", 0.0)) == 1
    assert len(admission) == 0
    assert admission.next_look() is None


def test_a_slow_writer_is_waited_for_as_long_as_it_writes(spool: Spool, admission: Watched) -> None:
    """Row 77: a byte a second, for as many seconds as there are bytes."""
    for second in range(1, len(WHOLE)):
        drop(spool, "x.json", WHOLE[:second])
        assert admission.see("x.json", float(second)) == []
    assert rejected(spool) == []
    drop(spool, "x.json", WHOLE)
    assert len(admission.see("x.json", float(len(WHOLE)), closed=True)) == 1


def test_a_file_that_stays_half_is_set_aside_after_the_settle_time(spool: Spool, admission: Watched) -> None:
    drop(spool, "x.json", HALF)
    admission.see("x.json", 10.0)
    admission.turn(10.0 + SETTLE_TIME - 0.1, NOW)
    assert rejected(spool) == []
    admission.turn(10.0 + SETTLE_TIME, NOW)
    assert rejected(spool) == ["x.json.rejected"]
    assert Path(spool.dir("dead") + "x.json.rejected").read_bytes() == HALF
    assert admission.said == [
        "pending/x.json is no job and was set aside as dead/x.json.rejected:"
        " not JSON: Unterminated string starting at line 1 column 13"
    ]


def test_a_file_that_its_writer_has_closed_is_set_aside_at_once(spool: Spool, admission: Watched) -> None:
    drop(spool, "x.json", HALF)
    admission.see("x.json", 0.0, closed=True)
    assert rejected(spool) == ["x.json.rejected"]


def test_an_empty_file_is_waited_for_even_if_it_was_closed(spool: Spool, admission: Watched) -> None:
    """`touch x.json; fill x.json`, and what `open(O_CREAT)` by another process looks like."""
    drop(spool, "x.json", b"")
    admission.see("x.json", 0.0, closed=True)
    assert rejected(spool) == []
    drop(spool, "x.json", WHOLE)
    assert len(admission.see("x.json", 4.0, closed=True)) == 1


def test_it_is_looked_at_again_soon_and_then_less_often(spool: Spool, admission: Watched) -> None:
    drop(spool, "x.json", HALF)
    now, looks = 100.0, []
    admission.notice("x.json", now)
    while rejected(spool) == []:
        when = admission.next_look()
        assert when is not None
        looks.append(when)
        now = max(now, when)
        admission.turn(now, NOW)
    assert looks[1] - looks[0] == pytest.approx(FIRST_LOOK)
    assert looks[-1] == pytest.approx(100.0 + SETTLE_TIME)
    assert looks == sorted(looks)
    assert 5 <= len(looks) <= 15, "it costs a handful of reads, not a busy loop"


def test_it_is_not_looked_at_before_its_time(spool: Spool, admission: Watched) -> None:
    drop(spool, "x.json", HALF)
    admission.see("x.json", 0.0)
    drop(spool, "x.json", WHOLE)
    assert admission.turn(FIRST_LOOK / 2, NOW) == []
    assert len(admission.turn(FIRST_LOOK, NOW)) == 1


def test_a_newcomer_that_goes_away_is_forgotten(spool: Spool, admission: Watched) -> None:
    path = drop(spool, "x.json", HALF)
    admission.see("x.json", 0.0)
    os.unlink(path)
    assert admission.turn(1.0, NOW) == []
    assert len(admission) == 0
    assert admission.said == []


def test_an_id_that_exists_is_set_aside_at_once_with_what_to_do(spool: Spool, admission: Watched) -> None:
    spool.enqueue("true", id="job1")
    drop(spool, "x.json", {"command": "true", "id": "job1"})
    admission.see("x.json", 0.0)
    assert list(spool.rejected()) == [
        ("x.json.rejected", "id: a job named job1 exists already; choose another id, or leave it out")
    ]


def test_many_newcomers_are_adopted_in_one_turn(spool: Spool, admission: Watched) -> None:
    for n in range(50):
        drop(spool, f"{n}.json", WHOLE if n % 5 else HALF)
        admission.notice(f"{n}.json", 0.0)
    assert len(admission.turn(0.0, NOW)) == 40
    assert len(admission) == 10


def test_a_mended_file_that_is_moved_back_is_adopted(spool: Spool, admission: Watched) -> None:
    """README: edit it, then `mv dead/NAME.json.rejected pending/NAME.json`."""
    drop(spool, "x.json", HALF)
    admission.see("x.json", 0.0, closed=True)
    Path(spool.dir("dead") + "x.json.rejected").write_bytes(WHOLE)
    os.rename(spool.dir("dead") + "x.json.rejected", spool.dir("pending") + "x.json")
    assert len(admission.see("x.json", 1.0)) == 1


class BadReader(Fs):
    """Files that cannot be opened for reading."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error = error

    def open(self, path: str, flags: int, *args: Any, **more: Any) -> int:
        if path.endswith("x.json") and self.error:
            raise OSError(self.error, os.strerror(self.error), path)
        return os.open(path, flags, *args, **more)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.EUCLEAN])
def test_a_file_that_cannot_be_read_is_set_aside_with_the_systems_reason(spool: Spool, error: int) -> None:
    """Row 42."""
    admission = Watched(Spool(spool.root, durability="none", fs=BadReader(error)))
    drop(spool, "x.json", WHOLE)
    for second in range(8):
        assert admission.see("x.json", float(second)) == []
    ((name, reason),) = spool.rejected()
    assert name == "x.json.rejected"
    assert reason.startswith(f"Could not read the job: {spool.dir('pending')}x.json: {os.strerror(error)}.")
    assert Path(spool.dir("dead") + name).read_bytes() == WHOLE


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_file_is_not_blamed_for_what_this_process_lacks(spool: Spool, error: int) -> None:
    """Row 49."""
    fs = BadReader(error)
    admission = Watched(Spool(spool.root, durability="none", fs=fs))
    drop(spool, "x.json", WHOLE)
    for second in range(0, 20, 3):
        with pytest.raises(SpoolError):
            admission.see("x.json", float(second))
    assert rejected(spool) == []
    fs.error = 0
    assert len(admission.see("x.json", 30.0)) == 1


def test_trouble_with_the_spool_is_raised_and_the_newcomer_is_kept(spool: Spool) -> None:
    class Full(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])

    admission = Watched(Spool(spool.root, durability="none", fs=Full()))
    drop(spool, "x.json", HALF)
    with pytest.raises(SpoolError):
        admission.see("x.json", 0.0, closed=True)
    assert listing(spool, "pending") == ["x.json"]
    assert listing(spool, "dead") == [], "the reason of a file that could not be moved doesn't stay"
    admission._spool = spool
    admission.see("x.json", 1.0, closed=True)
    assert rejected(spool) == ["x.json.rejected"]


def test_a_file_under_the_name_of_a_former_directory_is_adopted(spool: Spool, admission: Watched) -> None:
    directory = Path(spool.dir("pending"), "x.json")
    directory.mkdir()
    assert admission.see("x.json", 0.0) == []
    assert admission.see("x.json", 1.0) == []
    assert len(admission.said) == 1
    directory.rmdir()
    drop(spool, "x.json", WHOLE)
    assert len(admission.see("x.json", 2.0)) == 1
