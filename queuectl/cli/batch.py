"""`enqueue --batch`: many jobs from a file or a pipe.

Owns the reading in pieces: what has come is accepted with one sync for all (at most spool.BATCH jobs), and then its
ids are printed and flushed. So a slow writer's jobs don't wait for a full batch, and a fast one's share their syncs.

When things go wrong: a bad line ends it; the lines before it are accepted, and it is said from which line to go on. A
reader of the ids who goes away changes nothing: the jobs are accepted all the same.
"""

from __future__ import annotations

import os
import select
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence

from queuectl.cli.enqueue import Asked, hint, show_ids
from queuectl.core import job as jobs
from queuectl.core.job import LARGEST_FILE
from queuectl.errors import OK, BadJob, IdTaken, SpoolError, UsageError
from queuectl.spool import BATCH, Spool

PIECE = 1 << 18


class BadLine(UsageError):
    """A line of a batch that is no job."""


class Intake:
    """What has been accepted so far, and where the ids go."""

    def __init__(self, spool: Spool, asked: Asked) -> None:
        self.accepted = 0
        self._spool = spool
        self._asked = asked
        self._ids: dict[str, int] = {}  # the ids that lines have chosen, and where
        self._shows = True
        self._last = 0  # line that was accepted

    def take(self, first: int, lines: Sequence[bytes]) -> None:
        """Accept the jobs in these lines, the first of which has that number. BadLine after those before it."""
        chunk: list[jobs.Job] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, first):
            try:
                job = self._job(line, number)
            except BadJob as error:
                self._accept(chunk, numbers)
                raise self._bad(number, error) from None
            if job is not None:
                chunk.append(job)
                numbers.append(number)
        self._accept(chunk, numbers)

    def _job(self, line: bytes, number: int) -> jobs.Job | None:
        if number == 1:
            line = line.removeprefix(BOM_UTF8)  # as some editors begin a file
        text = line.strip()
        if text.startswith(b"#") or (not text and len(line) <= LARGEST_FILE):
            return None
        if len(line) > LARGEST_FILE:  # and perhaps only its beginning
            raise BadJob("", f"the line is longer than {LARGEST_FILE} bytes; put the data in a file of its own")
        if text == b"{":
            raise BadJob("", "a batch is one job a line, and this one goes on in the next")
        if text.startswith(b"{"):
            job = self._asked.job(jobs.parse(text))
        elif text.startswith(b"[{") or text == b"[":
            raise BadJob("", "a batch is one job a line, and no list")
        else:
            try:
                job = self._asked.job({"command": text.decode()})
            except UnicodeDecodeError as error:
                raise BadJob("", f"byte {error.start} is not UTF-8") from None
        if job.id is not None:
            if job.id in self._ids:
                raise BadJob("id", f"{job.id} stands in line {self._ids[job.id]} already")
            self._ids[job.id] = number
        return job

    def _accept(self, chunk: list[jobs.Job], numbers: list[int]) -> None:
        try:
            ids = self._spool.enqueue_many(chunk)
        except IdTaken as error:  # nothing of the chunk was accepted
            at = next(place for place, job in enumerate(chunk) if job.id is not None and job.id == error.job_id)
            self._accept(chunk[:at], numbers[:at])
            raise self._bad(numbers[at], error) from None
        except SpoolError as error:
            raise SpoolError(
                f"{error} {self._so_far()}; those from line {numbers[0]} on may not have been: look before you enqueue"
                " them again.", path=error.path, errno=error.errno,
            ) from None  # fmt: skip
        self.accepted += len(ids)
        self._last = numbers[-1] if numbers else self._last
        if self._shows:
            try:
                show_ids(ids, self._asked.as_json)
            except BrokenPipeError:
                self._shows = False

    def _bad(self, number: int, error: BadJob) -> BadLine:
        return BadLine(f"line {number}: {error}. {self._so_far()}; mend the line and enqueue from line {number} on.")

    def _so_far(self) -> str:
        return f"{self.accepted:,} job{' was' if self.accepted == 1 else 's were'} accepted"

    def say_interrupted(self) -> None:
        """Tell what whoever has pressed Ctrl-C must know before he enqueues the rest."""
        from queuectl.cli.render import say

        say(f"{self._so_far()}, up to line {self._last}; a part of what follows may have been. Look before you enqueue"
            " the rest.")  # fmt: skip

    def close(self) -> None:
        if not self._shows:
            raise BrokenPipeError


def enqueue_batch(asked: Asked, open_spool: Callable[[], Spool]) -> int:
    """Accept the jobs of the file that was asked for."""
    assert asked.batch is not None
    fd = _open(asked.batch)
    spool = open_spool()
    intake = Intake(spool, asked)
    number = 1
    try:
        for lines in _chunks(fd):
            intake.take(number, lines)
            number += len(lines)
    except KeyboardInterrupt:
        intake.say_interrupted()
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise SpoolError.of(error, f"read the batch ({intake._so_far()})", asked.batch, "Try again.") from None
    finally:
        if fd > 2:
            os.close(fd)
    intake.close()
    if sys.stderr.isatty():
        hint(spool)
    return OK


def _open(name: str) -> int:
    if name == "-":
        return 0
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)
    except OSError as error:
        raise UsageError(f"Could not read the batch {name!a}: {error.strerror}.") from None
    return fd


def _chunks(fd: int) -> Iterator[list[bytes]]:
    """The lines that are there, up to BATCH at a time, without waiting for more."""
    rest, skips = b"", False
    lines: list[bytes] = []
    while piece := os.read(fd, PIECE):
        if skips:
            _, newline, piece = piece.partition(b"\n")
            if not newline:
                continue
            skips = False
        *whole, rest = (rest + piece).split(b"\n")
        lines += whole
        if len(rest) > LARGEST_FILE:  # no job, and it might never end
            lines.append(rest)
            rest, skips = b"", True
        while len(lines) >= BATCH:
            yield lines[:BATCH]
            lines = lines[BATCH:]
        if lines and not select.select([fd], [], [], 0)[0]:
            yield lines
            lines = []
    if rest:
        lines.append(rest)
    if lines:
        yield lines
