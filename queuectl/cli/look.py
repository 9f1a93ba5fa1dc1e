"""`status` and `list`: the whole spool at a glance.

When things go wrong: a file that is no job is shown with the reason, in its place; the rest goes on. SpoolError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from queuectl import config
from queuectl.cli.door import Given, open_spool, whole
from queuectl.cli.pick import Row, attempts, described, pick, rows
from queuectl.cli.render import fields, moment, paint, safe, say, table, to_json
from queuectl.core.states import DEAD, FAILED, LABELS, PENDING, STATES
from queuectl.disk import FEW_INODES
from queuectl.errors import OK, UsageError
from queuectl.lease import ROLE_WORKER, WorkerInfo, setting, workers
from queuectl.spool import REJECTED, Spool
from queuectl.talk import plural, size

SCREENFUL = 50  # jobs
MOST_HOSTS = 8  # that `status` names; it counts them all

STATUS = """\
Usage: queuectl status [options]

Shows how many jobs are in each state, and who works.

Options:
  --json       print it as a JSON object
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl status
  queuectl status --json
"""

LIST = """\
Usage: queuectl list [options]

Lists jobs: those that run; those that wait, in the order in which they
will run; those that failed and wait for a retry; and those that have ended,
newest first.

Options:
  --state=STATE  only these: pending, processing, completed, failed, dead;
                 several with commas
  --limit=N      at most so many, 0 for all; if not given, 50, with --json all
  --json         print a JSON array: each job's record, with state, attempts,
                 not_before, priority and worker
  --spool=DIR    the spool's directory
  -h, --help     show this text

Examples:
  queuectl list
  queuectl list --state pending,failed --limit 0
  queuectl list --state dead --json
"""


class Listing(NamedTuple):
    """What `list` is asked for."""

    states: tuple[str, ...]
    limit: int
    as_json: bool


def status(given: Given) -> int:
    spool = open_spool(given)
    counts = spool.counts()
    alive = [worker for worker in workers(spool) if worker.role == ROLE_WORKER and worker.alive]
    total = sum(counts.values())
    rejected = sum(1 for name in spool.scan(DEAD) if name.endswith(REJECTED))
    mode = spool.mode(setting(spool, "poll-interval"))
    if given["--json"]:
        people = [
            {"id": one.id, "host": one.host, "pid": one.pid, "slots": one.slots, "labels": list(one.labels),
             "stopping": one.stopping}
            for one in alive
        ]  # fmt: skip
        print(to_json({"spool": spool.root, "mode": mode, **counts, "total": total, "rejected": rejected,
                       "active_workers": len(alive),
                       "active_hosts": len({one.host for one in alive}), "workers": people}))  # fmt: skip
        return OK
    lines = [(LABELS[state], paint(f"{counts[state]:,}", state if counts[state] else "")) for state in STATES]
    people_line = str(len(alive))
    if alive:
        leaving = sum(1 for one in alive if one.stopping)
        people_line += safe(f" ({plural(sum(one.slots for one in alive), 'slot')} on {_hosts(alive)}"
                            f"{f'; {leaving} stopping' if leaving else ''})")
    where = [("Spool", safe(spool.root)), *([("Shared", mode)] if spool.network else [])]
    aside = [("Set aside", f"{rejected:,} ({'is no job' if rejected == 1 else 'are no jobs'}: `queuectl dlq list`)")]
    fields([*where, *lines, ("Total", f"{total:,}"), *(aside if rejected else []), ("Active workers", people_line)])
    if counts[PENDING] + counts[FAILED] and (problem := nobody_takes(alive) or disk_refuses(spool)):
        say(f"{problem[0].upper()}{problem[1:]}.")
    if wrong := config.problem(spool.config_path, os.environ):
        say(f"{wrong} Until then workers keep the settings that they have, and no other worker starts.")
    return OK


def nobody_takes(alive: list[WorkerInfo]) -> str:
    """Why none of these workers takes a job; "" if one does."""
    if not alive:
        return "no worker is running. `queuectl worker start` starts one"
    if all(one.stopping for one in alive):
        return "all workers are stopping, and take no more jobs. `queuectl worker start` starts another"
    return ""


def disk_refuses(spool: Spool) -> str:
    """Why the disk, as this host sees it, lets no job start; "" if it does. SpoolError."""
    if spool.is_read_only:
        return "the file system is read-only here, and no job is started: see why in dmesg, and mount it for writing"
    free, inodes = spool.free()
    least = int(setting(spool, "min-free"))
    if free < least:
        return f"only {size(free)} are free, and no job is started below {size(least)} (setting min-free)"
    if 0 <= inodes < FEW_INODES:
        return f"only {inodes} inodes are free, and no job is started below {FEW_INODES}"
    return ""


def _hosts(alive: list[WorkerInfo]) -> str:
    """`alpha`, or `3 hosts: alpha, beta, gamma`."""
    hosts = sorted({one.host for one in alive})
    if len(hosts) == 1:
        return hosts[0]
    return f"{len(hosts)} hosts: {', '.join(hosts[:MOST_HOSTS])}{', ...' if len(hosts) > MOST_HOSTS else ''}"


def list_jobs(given: Given) -> int:
    asked = _read(given)
    spool = open_spool(given)
    picked = pick(spool, asked.states, asked.limit)
    found = rows(spool, picked.entries)
    if asked.as_json:
        _print_array(found)
    else:
        _print_table(found)
    if picked.total > len(picked.entries):
        say(f"{picked.total - len(picked.entries):,} more are not shown; `--limit 0` shows all.")
    return OK


def states_of(text: str | None) -> tuple[str, ...]:
    """The states that `--state` names; all if it was not given."""
    if text is None:
        return STATES
    named = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in named:
        if word not in STATES:
            raise UsageError(f"There is no state {word!a}. There are {', '.join(STATES)}.")
    if not named:
        raise UsageError(f"--state needs one or more of {', '.join(STATES)}.")
    return tuple(dict.fromkeys(named))


def _read(given: Given) -> Listing:
    return Listing(states_of(given["--state"]), limit_of(given), given["--json"])


def limit_of(given: Given) -> int:
    """How many jobs to show: a screenful for a person; all for a program, which reads no "more"."""
    limit = whole(given, "--limit")
    return (0 if given["--json"] else SCREENFUL) if limit is None else limit


def _print_array(found: Iterable[Row]) -> None:
    separator = "["
    for row in found:
        print(f"{separator}{to_json(described(row))}", end="")
        separator = ",\n "
    print("[]" if separator == "[" else "]")


def _print_table(found: Iterable[Row]) -> None:
    head = ("ID", "STATE", "PRIORITY", "ATTEMPTS", "NOT BEFORE / SINCE", "COMMAND")
    cells = map(_cells, found)
    first = next(cells, None)
    if first is not None:
        table(head, chain([first], cells), state=1)


def _cells(row: Row) -> tuple[str, ...]:
    entry, job = row.entry, row.job
    return (
        entry.id or f"({entry.name})",
        entry.state,
        str(job.priority if job else entry.priority),
        str(attempts(row)),
        moment(row.since),
        job.shown if job else f"(no job: {row.problem})",
    )


COMMANDS = {"status": (STATUS, status), "list": (LIST, list_jobs)}
