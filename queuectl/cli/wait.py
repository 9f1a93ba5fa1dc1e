"""`wait`: until jobs have ended, with a progress bar for whoever looks.

Owns the waiting for a whole spool; for named jobs actions.py does it. Nothing is changed.

When things go wrong: an unknown id is NoSuchJob at once (exit 1); the timeout is exit 124; Ctrl-C leaves the jobs as
they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from queuectl.actions import wait as wait_for
from queuectl.cli.door import Given, open_spool, seconds
from queuectl.cli.enqueue import hint
from queuectl.cli.render import columns, say, to_json
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING
from queuectl.errors import NEGATIVE, OK, TIMED_OUT
from queuectl.spool import Spool
from queuectl.talk import plural

FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5  # seconds between two looks at the whole spool
BAR = 30  # columns

TEXT = """\
Usage: queuectl wait [options] (--all | [--] <id>...)

Waits until jobs have ended: completed, or dead in the dead letter queue.

Options:
  --all           until nothing is pending, failed or processing any more
  --timeout=TIME  give up after so long: 90s, 10m, 3h
  --json          print a JSON object: the ids and their states; with --all,
                  how many jobs are in completed and in dead
  --spool=DIR     the spool's directory
  -h, --help      show this text

Exit code: 0 if all have completed, 1 if one is dead (with --all: if any job
is), 124 at the timeout.

Examples:
  queuectl wait job1 job2
  queuectl wait --all --timeout 10m
"""


class Waited(NamedTuple):
    """How the waiting ended: `done` False is the timeout."""

    done: bool
    dead: int
    found: dict[str, object]


def wait(given: Given) -> int:
    timeout = seconds(given, "--timeout")
    spool = open_spool(given)
    bar = _Bar(lambda: hint(spool, "this waits until one is"))
    try:
        waited = _wait_all(spool, timeout, bar) if given["--all"] else _wait_ids(spool, given["<id>"], timeout, bar)
    finally:
        bar.clear()
    if given["--json"]:
        print(to_json(waited.found | {"timed_out": not waited.done}))
    if not waited.done:
        say("The time is over; nothing was changed. `queuectl list` shows where the jobs are.")
        return TIMED_OUT
    if waited.dead:
        say(f"{plural(waited.dead, 'job')} {'is' if waited.dead == 1 else 'are'} dead. `queuectl dlq list` shows why.")
        return NEGATIVE
    return OK


def _wait_ids(spool: Spool, job_ids: list[str], timeout: float | None, bar: _Bar) -> Waited:
    wanted = len(set(job_ids))
    seen: dict[str, str] = {}

    def progress(states: dict[str, str]) -> None:
        seen.update(states)
        bar.show(len(states), wanted)

    found = wait_for(spool, job_ids, timeout, progress)
    states: dict[str, object] = {job_id: seen.get(job_id) for job_id in job_ids}
    return Waited(found is not None, sum(state == DEAD for state in states.values()), {"jobs": states})


def _wait_all(spool: Spool, timeout: float | None, bar: _Bar) -> Waited:
    deadline = None if timeout is None else time.monotonic() + timeout
    pause, most = FIRST_WAIT, 0
    while True:
        began = time.monotonic()
        left = _unfinished(spool)
        most = max(most, left)
        bar.show(most - left, most)
        done = not left and not _unfinished(spool)  # twice: one may have moved behind the first look
        now = time.monotonic()
        if done or (deadline is not None and now >= deadline):
            counts = spool.counts()
            return Waited(done, counts[DEAD], {state: counts[state] for state in (COMPLETED, DEAD)})
        pause = max(min(1.5 * pause, LONGEST_WAIT), 4 * (now - began))  # a spool of a million isn't listed for ever
        time.sleep(pause if deadline is None else min(pause, deadline - now))


def _unfinished(spool: Spool) -> int:
    """How many jobs have not ended. One that is being settled lies in none of the states, but in .tmp/."""
    left = _count(spool, (PENDING, FAILED, PROCESSING))
    left = left or len(spool.settling())
    return left or _count(spool, (FAILED, PENDING))


def _count(spool: Spool, states: tuple[str, ...]) -> int:
    """A directory in pending/ is no job."""
    return sum(1 for entry in spool.entries(states) if entry.id or not spool.is_directory(entry.name))


class _Bar:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin: Callable[[], None] | None = begin  # called once, if there is anything to wait for
        self._write: Callable[[str], object] | None = sys.stderr.write if sys.stderr.isatty() else None
        self._shown = ""

    def show(self, done: int, total: int) -> None:
        if self._write is None or not total:
            return
        if self._begin is not None and done < total:
            self._begin()
            self._begin = None
        full = BAR * done // total
        line = f"[{'#' * full}{'.' * (BAR - full)}] {done:,} of {total:,}"[: (columns(sys.stderr) or 80) - 1]
        if line != self._shown:
            self._write(f"\r{line}\x1b[K")
            sys.stderr.flush()
            self._shown = line

    def clear(self) -> None:
        if self._write is not None and self._shown:
            self._write("\r\x1b[K")
            sys.stderr.flush()


COMMANDS = {"wait": (TEXT, wait)}
