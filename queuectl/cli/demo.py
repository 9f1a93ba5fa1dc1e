"""`demo`: five jobs and a real worker, to see and to look at afterwards.

Owns the choice of the jobs and the story that is told of them. Nothing is simulated: the jobs are enqueued as
anybody's, and a worker of its own process runs them.

When things go wrong: a spool with other people's waiting jobs is refused, for the demo's worker would run them. Ctrl-C
ends the worker too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from queuectl.cli.detach import module_flags, tail
from queuectl.cli.door import Given
from queuectl.cli.render import paint, safe
from queuectl.core.states import COMPLETED, DEAD, FAILED, LABELS, PENDING, PROCESSING, STATES, TERMINAL
from queuectl.core.times import SECOND, iso
from queuectl.disk import LOGS, token
from queuectl.errors import OK, BadJob, SpoolError, UsageError
from queuectl.spool import Spool

TEXT = """\
Usage: queuectl demo [options] [<dir>]

Shows queuectl at work, in a few seconds: a job that succeeds, several
commands in one job, a delayed job, one that succeeds at the third attempt,
and one that fails into the dead letter queue. A real worker runs them. The
spool is left to look at: in <dir>, or in a new directory under /tmp.

Options:
  --spool=DIR  the same as <dir>
  -h, --help   show this text

Examples:
  queuectl demo
  queuectl demo /tmp/my-demo
"""

LIMIT = 60.0  # seconds; it takes 3
POLL = 0.02


class Piece(NamedTuple):
    """One job of the demo, and why it is there."""

    id: str
    about: str
    members: dict[str, Any]


def demo(given: Given) -> int:
    if given["<dir>"] is not None and given["--spool"] is not None:
        raise UsageError("<dir> and --spool both say where; give one of them.")
    root = given["<dir>"] if given["<dir>"] is not None else given["--spool"]
    if root is None:
        root = tempfile.mkdtemp(prefix="queuectl-demo-")
    spool = Spool(root)
    counts = spool.counts()
    if counts[PENDING] + counts[FAILED]:
        raise UsageError(f"{spool.root} has jobs that wait; the demo's worker would run them. Name a new directory.")
    print(f"The spool: {safe(spool.root)}\n\nFive jobs:")
    pieces = _pieces(f"-{token()[:4]}" if sum(counts.values()) else "")
    for piece in pieces:
        spool.enqueue(id=piece.id, **piece.members)
        print(f"  {piece.id:<{_width(pieces)}}  {piece.about}")
    print("\nA worker runs them, two at a time:", flush=True)
    worker, log = _start_worker(spool)
    try:
        _watch(spool, pieces, worker, log)
    finally:
        if worker.poll() is None:
            worker.terminate()
        worker.wait()
    _look_back(spool, pieces)
    return OK


def _pieces(ending: str) -> list[Piece]:
    later = iso(time.time_ns() + 2 * SECOND)
    return [
        Piece(f"hello{ending}", "succeeds", {"command": "echo Hello from queuectl."}),
        Piece(f"several{ending}", "is several commands in one",
              {"command": "echo step 1 && sleep 0.3 && echo step 2 | tr a-z A-Z; echo in $PWD", "cwd": "/tmp"}),
        Piece(f"later{ending}", "may not run before two seconds from now",
              {"command": "echo two seconds later", "run_at": later}),
        Piece(f"stubborn{ending}", "fails twice, and is tried again after a second each time",
              {"command": 'echo attempt $QUEUECTL_ATTEMPT; test "$QUEUECTL_ATTEMPT" -ge 3',
               "max_retries": 5, "backoff_base": 1}),
        Piece(f"doomed{ending}", "fails for good, into the dead letter queue",
              {"command": "echo no luck today >&2; exit 1", "max_retries": 1, "backoff_base": 1, "priority": 5}),
    ]  # fmt: skip


def _width(pieces: list[Piece]) -> int:
    return max(len(piece.id) for piece in pieces)


def _start_worker(spool: Spool) -> tuple[subprocess.Popen[bytes], str]:
    name = f"demo-{token()}.log"
    log = spool.open_log(name)
    command = [sys.executable, *module_flags(), "-m", "queuectl", "--spool", spool.root]
    try:
        process = subprocess.Popen(
            [*command, "worker", "start", "--count=2", "--until-empty", "--log-level=info"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)
    return process, spool.dir(LOGS) + name


def _watch(spool: Spool, pieces: list[Piece], worker: subprocess.Popen[bytes], log: str) -> None:
    """Tell what happens, until all jobs have ended."""
    began = time.monotonic()
    told: dict[str, str] = {}
    while True:
        over = worker.poll() is not None
        states = {piece.id: _state(spool, piece.id) for piece in pieces}
        for job_id, (state, what) in states.items():
            if told.get(job_id) != what and what:
                seconds = f"{time.monotonic() - began:4.1f} s"
                print(f"  {seconds}  {job_id:<{_width(pieces)}}  {paint(what, state)}", flush=True)
                told[job_id] = what
        if all(state in TERMINAL for state, _ in states.values()):
            return
        if over or time.monotonic() - began > LIMIT:
            raise SpoolError(f"The worker has not done its work. Its log, {log}, ends: {tail(log)}", path=log)
        time.sleep(POLL)


def _state(spool: Spool, job_id: str) -> tuple[str, str]:
    """The job's state, and what there is to tell of it."""
    entry = spool.find(job_id)
    if entry is None:
        return PROCESSING, ""  # between two states
    if entry.state == FAILED:
        return FAILED, f"failed, attempt {entry.attempts}: it will be tried again"
    if entry.state == COMPLETED:
        return COMPLETED, "completed"
    if entry.state == DEAD:
        try:
            job = spool.load(entry)
        except BadJob:
            job = None
        return DEAD, f"dead: {safe(str(job.body.get('last_error'))) if job else ''}"
    return entry.state, ""


def _look_back(spool: Spool, pieces: list[Piece]) -> None:
    counts = spool.counts()
    print(f"\nNow: {', '.join(f'{LABELS[state]} {counts[state]}' for state in STATES)}.")
    place = safe(spool.root)
    names = {piece.id.partition("-")[0]: piece.id for piece in pieces}
    print("\nLook at it:")
    for words in (
        "list", f"logs {names['several']}", f"show {names['stubborn']}", "dlq list", f"dlq retry {names['doomed']}",
        "worker start --until-empty",
    ):  # fmt: skip
        print(f"  queuectl --spool {place} {words}")
    print(f"  ls {place}/*    # a job is a file, its state is the directory\n\nA queue of your own:")
    print('  queuectl enqueue "echo hi"\n  queuectl worker start')


COMMANDS = {"demo": (TEXT, demo)}
