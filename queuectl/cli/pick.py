"""Which jobs a list shows, and in which order: by names alone, however many there are.

Owns the order (running; waiting, as they will run; waiting for a retry; ended, newest first) and the limit. To choose
it reads no job: a listing of a million names costs seconds, a million files would cost minutes.

When things go wrong: a job that moves while it is listed may be missing or stand in its old state. SpoolError.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from queuectl.core import job as jobs
from queuectl.core.names import is_ignored
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING, TERMINAL
from queuectl.core.times import SECOND, iso, stamp, unstamp
from queuectl.errors import BadJob, SpoolError
from queuectl.spool import Entry, Spool, entry_of

ORDER = (PROCESSING, PENDING, FAILED, COMPLETED, DEAD)
# Members of a job that its JSON has always, null if nobody has said them: a program may ask for them.
ALWAYS = ("command", "max_retries", "timeout", "run_at", "created_at", "updated_at", "last_error")
MOST_DATED = 10_000  # with more ended jobs than this, ids (which sort by time) stand in for the times of their files
MOST_DATED_FAR = 1_000  # the same on a network file system, where each look costs a round trip


class Pick(NamedTuple):
    """The entries to show, in order, and how many there are in all."""

    entries: list[Entry]
    total: int


class Row(NamedTuple):
    """One job as a list shows it. `job` is None if its file cannot be read as one; `problem` says why."""

    entry: Entry
    job: jobs.Job | None
    problem: str
    since: int | None


def pick(spool: Spool, states: Iterable[str], limit: int) -> Pick:
    """The first `limit` jobs (0: all) in these states."""
    wanted = set(states)
    entries: list[Entry] = []
    total = 0
    now = stamp(spool.clock())
    for state in ORDER:
        if state not in wanted:
            continue
        names = [0]
        room = limit - len(entries) if limit else 0
        if limit and room <= 0:
            total += sum(1 for _ in _names(spool, state))
            continue
        found = _best(spool, state, _counted(_names(spool, state), names), room, now)
        known = [entry for name in found if (entry := entry_of(state, name))]
        entries += known
        total += names[0] - (len(found) - len(known))  # what has a strange name is no job: `fsck` tells of it
    return Pick(entries, total)


def rows(spool: Spool, entries: Iterable[Entry]) -> Iterator[Row]:
    """The entries with their jobs. What has moved on since it was listed is looked up once more, or left out."""
    for listed in entries:
        entry, problem = listed, ""
        try:
            job = spool.load(entry)
            if job is None:
                again = spool.find(entry.id)
                job = spool.load(again) if again else None
                if again is None or job is None:
                    continue
                entry = again
        except BadJob as error:
            job, problem = None, str(error)
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            job, problem = None, str(error)
        yield Row(entry, job, problem, since(spool, entry, job))


def since(spool: Spool, entry: Entry, job: jobs.Job | None) -> int | None:
    """When the job may first run, if it waits; since when it is where it is, if not. Nanoseconds UTC."""
    if entry.state == PROCESSING:
        return _claimed_at(spool, entry)
    if entry.state in TERMINAL:
        settled = job.body.get("updated_at") if job else None
        if isinstance(settled, str):
            from queuectl.core.times import parse_instant

            try:
                return parse_instant(settled)
            except ValueError:
                pass
        modified = spool.modified(entry)
        return None if modified is None else int(modified * SECOND)
    return unstamp(entry.not_before) if entry.not_before else None


def _claimed_at(spool: Spool, entry: Entry) -> int | None:
    """A claim is a rename, which nothing but the inode's change time tells."""
    try:
        return os.lstat(spool.path_of(entry)).st_ctime_ns
    except OSError:
        return None


def attempts(row: Row) -> int:
    """How many attempts have been started."""
    if row.entry.state in TERMINAL and row.job:
        counted = row.job.body.get("attempts")
        return counted if isinstance(counted, int) else 0
    return row.entry.attempts


def described(row: Row) -> dict[str, Any]:
    """The job as JSON shows it: its record, and what its place and name say."""
    from queuectl.cli.render import masked

    entry = row.entry
    found: dict[str, Any] = {"id": entry.id or None, "state": entry.state}
    if row.job:
        body = masked(row.job.body)
        found |= body | {name: None for name in ALWAYS if name not in body}
    found |= {
        "id": entry.id or None,
        "state": entry.state,
        "attempts": attempts(row),
        "not_before": iso(unstamp(entry.not_before)) if entry.not_before else None,
        "priority": row.job.priority if row.job else entry.priority,
        "worker": entry.worker or None,
    }
    if not entry.id:
        found["file"] = entry.name
    if row.problem:
        found["problem"] = row.problem
    return found


def _names(spool: Spool, state: str) -> Iterator[str]:
    for name in spool.scan(state):
        if not is_ignored(name):
            yield name


def _counted(names: Iterator[str], count: list[int]) -> Iterator[str]:
    for name in names:
        count[0] += 1
        yield name


def _best(spool: Spool, state: str, names: Iterator[str], room: int, now: str) -> list[str]:
    key: Callable[[str], Any]
    if state not in TERMINAL:
        key = _run_order(now) if state == PENDING else lambda name: name
        return heapq.nsmallest(room, names, key=key) if room else sorted(names, key=key)
    most = MOST_DATED_FAR if spool.network else MOST_DATED
    first = list(islice(names, most))
    if len(first) < most:
        modified = {name: spool.modified(Entry(state, name, "")) or 0.0 for name in first}
        key = modified.__getitem__
    else:
        key = str
    everything = chain(first, names)
    return heapq.nlargest(room, everything, key=key) if room else sorted(everything, key=key, reverse=True)


def _run_order(now: str) -> Callable[[str], tuple[bool, int, str]]:
    """Sorts names of pending/ as a worker would take them: what may run now by priority, then by time; then the rest
    by time."""

    def key(name: str) -> tuple[bool, int, str]:
        if name[23:25] != ".p":
            return False, 0, f" {name}"  # a dropped file that no worker has adopted yet
        try:
            priority = int(name[25 : name.index(".", 25)])
        except ValueError:
            return False, 0, f" {name}"
        later = name[:23] > now
        return later, 0 if later else -priority, name

    return key
