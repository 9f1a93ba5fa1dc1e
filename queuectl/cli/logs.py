"""`logs`: what a job has printed, and what it goes on to print.

Owns the choice of the attempt and the following of its log. Reads logs/ and never writes there.

When things go wrong: no such job, or no such attempt, is exit 1. A worker recycles the log of an attempt that printed
nothing, so what was read counts only if the log still has its name afterwards. A worker may cut the log while it is
followed: then the copy goes on where it was, or with the mark that stands for what it has missed.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from typing import BinaryIO, NamedTuple

from queuectl.cli.door import Given, open_spool, whole
from queuectl.cli.render import fields, paint, safe, say, to_json
from queuectl.core.job import Job
from queuectl.core.logs import HEAD, MARK, left_out, mark
from queuectl.core.states import PROCESSING, TERMINAL
from queuectl.disk import LOGS
from queuectl.errors import NEGATIVE, OK, BadJob, NoSuchJob, QueuectlError
from queuectl.spool import Entry, Spool

POLL = 0.1  # seconds between two looks at a log that is being followed
PIECE = 1 << 16

TEXT = """\
Usage: queuectl logs [options] [--] <id>

Shows what a job has printed, in its last attempt or the running one. Of very
much, the beginning and the newest are kept (setting max-log).

Options:
  --attempt=N   of this attempt; they count from 1
  -f, --follow  go on until the attempt has ended; Ctrl-C stops looking
  --raw         only what was printed, byte by byte
  --json        print a JSON object, with the output as text
  --spool=DIR   the spool's directory
  -h, --help    show this text

On a terminal what could control it is shown escaped, unless --raw is given.

Examples:
  queuectl logs job1
  queuectl logs --follow job1
  queuectl logs --raw --attempt 2 job1
"""


class Subject(NamedTuple):
    """The job whose log is shown, and the number of the attempt (0: it has had none)."""

    entry: Entry
    job: Job | None
    attempt: int


def logs(given: Given) -> int:
    attempt = whole(given, "--attempt", 1)
    spool = open_spool(given)
    subject = _find(spool, given["<id>"], attempt)
    if given["--follow"]:
        while not subject.attempt:
            subject = _await_start(spool, subject)
    log = _Log(log_path(spool, subject))
    if given["--json"]:
        output = b"".join(iter(log.read, b"")).decode("utf-8", "replace") if subject.attempt else None
        print(to_json({
            "id": subject.entry.id, "command": subject.job.shown if subject.job else None,
            "state": subject.entry.state, "attempt": subject.attempt or None, "output": output,
        }))  # fmt: skip
        return OK if subject.attempt else NEGATIVE
    if not given["--raw"]:
        _print_head(subject)
    if not subject.attempt:
        what = "has not run yet" if subject.job else "is no job that can be read, and has no log"
        wait = "; --follow waits for it" if subject.job else ""
        say(f"{subject.entry.id} {what}. `queuectl show {subject.entry.id}` says why{wait}.")
        return NEGATIVE
    sys.stdout.flush()
    writer = _Writer(sys.stdout.buffer, escaped=sys.stdout.isatty() and not given["--raw"])
    if given["--follow"]:
        _follow(spool, subject, log, writer)
    else:
        _copy(log, writer)
    writer.close()
    if writer.written:
        return OK
    if _is_lost(spool, subject):
        say(f"What attempt {subject.attempt} of {subject.entry.id} printed is gone: somebody has removed"
            f" {log_path(spool, subject)}.")  # fmt: skip
        return NEGATIVE
    if not given["--raw"]:
        yet = "has printed nothing yet" if _is_running(spool, subject) else "printed nothing"
        say(f"Attempt {subject.attempt} of {subject.entry.id} {yet}.")
    return OK


def log_path(spool: Spool, subject: Subject) -> str:
    return f"{spool.dir(LOGS)}{subject.entry.id}.{subject.attempt}.log"


def _find(spool: Spool, job_id: str, wanted: int | None) -> Subject:
    """The job and the attempt to show: the wanted one, else the running one, else the last. Raises NoSuchJob."""
    for _ in range(3):
        entry = spool.find(job_id)
        if entry is None:
            raise NoSuchJob(job_id)
        try:
            job = spool.load(entry)
        except BadJob:
            return Subject(entry, None, wanted or _last_log(spool, job_id))
        if job is None:
            continue  # it has just moved
        last = job.attempt if entry.state == PROCESSING else job.attempt - 1
        if wanted is not None and wanted > last:
            raise QueuectlError(f"{job_id} has had {last or 'no'} attempt{'s' if last != 1 else ''}, not {wanted}.")
        return Subject(entry, job, wanted or last)
    raise NoSuchJob(job_id)


def _last_log(spool: Spool, job_id: str) -> int:
    """The number of the last attempt that has a log, of a job whose record cannot be read; 0 for none."""
    attempt = 0
    while spool.has_log(f"{job_id}.{attempt + 1}.log"):
        attempt += 1
    return attempt


def _is_lost(spool: Spool, subject: Subject) -> bool:
    """Whether the job's history names a log for the attempt, and it is not there."""
    history = subject.job.history if subject.job else []
    names = [str(entry["log"]) for entry in history if entry["attempt"] == subject.attempt and entry.get("log")]
    return bool(names) and not spool.has_log(names[-1])


def _print_head(subject: Subject) -> None:
    state = subject.entry.state
    command = safe(subject.job.shown) if subject.job else "(its file cannot be read)"
    fields([("Job", subject.entry.id), ("Command", command), ("State", paint(state, state))])
    print()


class _Log:
    """A log as a stream of what was printed, also while it grows, and while it is cut (core/logs.py)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._at = 0  # how much of the stream was read, or is left out

    def read(self) -> bytes:
        """The next piece; nothing if there is none yet, or the log isn't this attempt's any more."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                fd = file.fileno()
                while True:
                    gap = left_out(os.pread(fd, MARK, HEAD))
                    data, at = self._piece(fd, gap)
                    if left_out(os.pread(fd, MARK, HEAD)) == gap:  # else it was cut just now
                        break
                if not os.path.samestat(os.fstat(fd), os.stat(self._path)):
                    return b""
        except FileNotFoundError:
            return b""
        self._at = at
        return data

    def _piece(self, fd: int, gap: int) -> tuple[bytes, int]:
        """A piece, and where the stream goes on behind it. `gap` bytes of the stream are left out behind its head."""
        at = self._at
        if gap and HEAD <= at < HEAD + gap:
            return mark(gap), HEAD + gap
        if not gap:
            data = os.pread(fd, PIECE, at)
        elif at < HEAD:
            data = os.pread(fd, min(PIECE, HEAD - at), at)
        else:
            data = os.pread(fd, PIECE, at - gap + MARK)
        return data, at + len(data)


class _Writer:
    """Writes what a job printed: as it is, or escaped for a terminal. A character that comes in two pieces is one."""

    def __init__(self, out: BinaryIO, *, escaped: bool) -> None:
        self.written = 0
        self._out = out
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape") if escaped else None

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._put(data, final=False)

    def close(self) -> None:
        self._put(b"", final=True)

    def _put(self, data: bytes, *, final: bool) -> None:
        if self._decoder is not None:
            text = self._decoder.decode(data, final).replace("\r\n", "\n")
            data = "\n".join("\t".join(map(safe, line.split("\t"))) for line in text.split("\n")).encode()
        self._out.write(data)
        self._out.flush()


def _copy(log: _Log, writer: _Writer) -> None:
    while data := log.read():
        writer.write(data)


def _await_start(spool: Spool, subject: Subject) -> Subject:
    """Wait until a job that has had no attempt has moved, unless it has come to its end."""
    while subject.entry.state not in TERMINAL and spool.exists(subject.entry.state, subject.entry.name):
        time.sleep(POLL)
    found = _find(spool, subject.entry.id, None)
    if not found.attempt and found.entry.state in TERMINAL:
        raise QueuectlError(f"{subject.entry.id} has ended as {found.entry.state} without having run.")
    return found


def _follow(spool: Spool, subject: Subject, log: _Log, writer: _Writer) -> None:
    """Copy the log until its attempt has ended."""
    while True:
        ended = not _is_running(spool, subject)
        _copy(log, writer)
        if ended:
            spool.check_identity()  # or is it the spool that is gone?
            return
        time.sleep(POLL)


def _is_running(spool: Spool, subject: Subject) -> bool:
    if subject.entry.state != PROCESSING or subject.job is None or subject.attempt != subject.job.attempt:
        return False
    return spool.exists(subject.entry.state, subject.entry.name)


COMMANDS = {"logs": (TEXT, logs)}
