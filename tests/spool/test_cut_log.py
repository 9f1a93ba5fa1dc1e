"""Logs that are cut: what stays of them, what whoever reads them sees, and that nobody is held up."""

from __future__ import annotations

import errno
import os
import random
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queuectl.cli.logs import _Log
from queuectl.core.logs import HEAD, LEAST, MARK, left_out, mark, tail
from queuectl.errors import SpoolError
from queuectl.spool import Spool
from tests.spool.faults import Fs

LOG = "one.1.log"


@pytest.fixture
def log(spool: Spool) -> Path:
    return Path(spool.dir("logs") + LOG)


def lines(size: int) -> bytes:
    """Text of so many bytes, no two lines alike."""
    return b"".join(b"%d\n" % number for number in range(size // 4))[:size]


@pytest.mark.parametrize("number", [0, 1, 12345, 10**19])
def test_a_mark_says_how_much_was_left_out(number: int) -> None:
    assert left_out(mark(number)) == number
    assert len(mark(number)) == MARK


@pytest.mark.parametrize("text", [b"", b"x" * MARK, mark(5)[:-1], mark(5)[:-1] + b"x", mark(5).replace(b" 5", b"-5")])
def test_what_is_no_mark_says_nothing(text: bytes) -> None:
    assert left_out(text) == 0


def test_a_log_within_its_bound_stays_as_it_is(spool: Spool, log: Path) -> None:
    log.write_bytes(lines(LEAST))
    assert not spool.cut_log(LOG, LEAST)
    assert log.read_bytes() == lines(LEAST)
    assert not spool.cut_log("gone.1.log", LEAST)


def test_the_head_and_the_newest_output_stay_and_a_line_between_says_how_much_went(spool: Spool, log: Path) -> None:
    printed = lines(3 * LEAST)
    log.write_bytes(printed)
    assert spool.cut_log(LOG, LEAST)
    kept = log.read_bytes()
    assert kept.startswith(printed[:HEAD])
    gap = left_out(kept[HEAD : HEAD + MARK])
    assert kept[HEAD + MARK :] == printed[HEAD + gap :]
    assert printed[HEAD + gap - 1 : HEAD + gap] == b"\n", "the tail begins with a whole line"
    assert tail(LEAST) - 4096 <= len(kept) - HEAD - MARK <= tail(LEAST)


def test_who_reads_while_it_grows_and_is_cut_sees_all_in_order_or_the_mark_for_what_is_missing(
    spool: Spool, log: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    printed = bytearray()
    reader, at, cuts, missed = _Log(str(log)), 0, 0, 0
    for _ in range(300):
        what = chance.random()
        if what < 0.4:
            piece = chance.randbytes(chance.choice((1, 100, HEAD // 2, HEAD, 300_000, 2 * LEAST)))
            printed += piece
            with log.open("ab") as file:
                file.write(piece)
        elif what < 0.5:
            cuts += log.exists() and spool.cut_log(LOG, LEAST)
        else:
            for _ in range(chance.choice((1, 5, 100))):
                data = reader.read()
                gap = left_out(data)
                if gap:
                    assert HEAD <= at < HEAD + gap
                    at, missed = HEAD + gap, missed + 1
                else:
                    assert data == printed[at : at + len(data)]
                    at += len(data)
    while data := reader.read():
        at = HEAD + left_out(data) if left_out(data) else at + len(data)
    assert at == len(printed)
    assert cuts


def test_who_prints_is_not_held_up_and_its_last_words_stay(spool: Spool, log: Path) -> None:
    """What is printed in the moment of a cut may be left out, so the last words come after the last one but one."""
    printer = """
import os, sys
for number in range(399999):
    sys.stdout.write(f"{number} {'.' * 60}\\n")
sys.stdout.flush()
os.close(2)
sys.stdin.readline()
sys.stdout.write(f"399999 {'.' * 60}\\nthe last words\\n")
"""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", printer], stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE
        )
    cuts = 0
    assert process.stderr is not None
    while not select.select([process.stderr], [], [], 0)[0]:
        cuts += spool.cut_log(LOG, LEAST)
    process.communicate(b"\n")
    assert process.returncode == 0
    spool.cut_log(LOG, LEAST)
    kept = log.read_bytes()
    assert cuts >= 1
    assert len(kept) <= LEAST
    assert kept.startswith(b"0 ....")
    assert kept.endswith(b"399999 " + b"." * 60 + b"\nthe last words\n")
    total = sum(len(f"{number} ") + 61 for number in range(400000)) + len("the last words\n")
    assert 0 < left_out(kept[HEAD : HEAD + MARK]) <= total - len(kept) + MARK


@pytest.mark.parametrize("pieces", [1, 4, 5, 9, 40])
def test_what_comes_faster_than_it_is_copied_is_left_out_and_the_newest_stays(tmp_path: Path, pieces: int) -> None:
    class Flooded(Fs):
        """The job prints twice what a cut keeps, each time that some of it is copied."""

        left, printed = pieces, len(lines(2 * LEAST))

        def __getattr__(self, name: str) -> Any:
            return self.copy if name == "pwrite" else super().__getattr__(name)

        def copy(self, fd: int, data: bytes, at: int) -> int:
            if at > HEAD and self.left:
                self.left -= 1
                words = lines(2 * tail(LEAST)) + (b"" if self.left else b"the last words\n")
                self.printed += len(words)
                with log.open("ab") as file:
                    file.write(words)
            return os.pwrite(fd, data, at)

    fs = Flooded()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    log = Path(spool.dir("logs") + LOG)
    log.write_bytes(lines(2 * LEAST))
    assert spool.cut_log(LOG, LEAST)
    kept = log.read_bytes()
    gap = left_out(kept[HEAD : HEAD + MARK])
    assert len(kept) <= LEAST
    assert len(kept) - MARK + gap == fs.printed, "each byte is kept or counted"
    assert kept.endswith(b"the last words\n") == (pieces < 10), "a flood without end is not copied without end"


def test_on_a_full_disk_that_copies_on_write_room_comes_first(tmp_path: Path) -> None:
    class Full(Fs):
        full = True

        def __getattr__(self, name: str) -> Any:
            if name == "pwrite" and self.full:
                return self.refuse
            if name == "ftruncate":
                self.full = False
            return super().__getattr__(name)

        def refuse(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = Spool(tmp_path / "spool", durability="none", fs=Full())
    log = Path(spool.dir("logs") + LOG)
    log.write_bytes(lines(2 * LEAST))
    assert spool.cut_log(LOG, LEAST)
    assert log.read_bytes() == lines(2 * LEAST)[:HEAD] + mark(2 * LEAST - HEAD)


def test_a_log_that_cannot_be_cut_is_told_of(tmp_path: Path) -> None:
    class Broken(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "ftruncate":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    spool = Spool(tmp_path / "spool", durability="none", fs=Broken())
    Path(spool.dir("logs") + LOG).write_bytes(lines(2 * LEAST))
    with pytest.raises(SpoolError, match="Could not cut the log"):
        spool.cut_log(LOG, LEAST)


def test_a_link_in_place_of_a_log_is_not_followed(spool: Spool, log: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(lines(2 * LEAST))
    log.symlink_to(target)
    with pytest.raises(SpoolError):
        spool.cut_log(LOG, LEAST)
    assert target.stat().st_size == 2 * LEAST
