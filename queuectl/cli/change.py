"""`cancel` and `prune`: what a person does to jobs that wait, run or have ended.

actions.py does it; this module asks for it, and says what came of it. When things go wrong with one of several jobs,
that is said, the others are done nevertheless, and the exit code is 1.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from queuectl import actions
from queuectl.cli.door import Given, Misuse, open_spool, seconds, usage_of, whole
from queuectl.cli.look import states_of
from queuectl.cli.render import complain, say, to_json
from queuectl.core.states import COMPLETED, TERMINAL
from queuectl.errors import NEGATIVE, OK, NoSuchJob, UsageError
from queuectl.talk import plural

CANCEL = """\
Usage: queuectl cancel [options] [--] <id>...

Cancels jobs. One that waits goes to the dead letter queue; one that runs is
killed by its worker, on whatever host, and goes there too. It prints each id
with what came of it: cancelled; completed or dead if it had ended already;
requested if its worker has not answered in time (it still will), or is dead
(whoever works next will).

Options:
  --timeout=TIME  wait so long for a worker's answer  [default: 30s]
  --json          print a JSON object: the ids, and what came of them
  --spool=DIR     the spool's directory
  -h, --help      show this text

Exit code: 0 if all were cancelled, else 1.

Examples:
  queuectl cancel job1 job2
  queuectl cancel --timeout 5s job1
"""

PRUNE = """\
Usage: queuectl prune [options]

Removes jobs that have ended, with what they printed. Their ids become free.
Say which: by state, by age, or all but the newest.

Options:
  --state=STATE      completed, dead or completed,dead; completed if not given
  --older-than=TIME  that ended longer ago than 90s, 10m, 3h, 7d
  --keep=N           but the newest N of each state stay
  --dry-run          only print the ids and states of what would be removed
  --json             print a JSON array of what is removed
  --spool=DIR        the spool's directory
  -h, --help         show this text

Examples:
  queuectl prune --older-than 7d --keep 1000
  queuectl prune --state dead,completed --dry-run
"""


class Pruning(NamedTuple):
    """What `prune` is asked to remove."""

    states: tuple[str, ...]
    older_than: float | None
    keep: int | None
    dry_run: bool


def cancel(given: Given) -> int:
    timeout = seconds(given, "--timeout")
    spool = open_spool(given)
    results: dict[str, str] = {}
    for job_id in dict.fromkeys(given["<id>"]):
        try:
            results[job_id] = actions.cancel(spool, job_id, timeout)
        except NoSuchJob as error:
            results[job_id] = "unknown"
            complain(error)
            continue
        except KeyboardInterrupt:
            if spool.has_request(f"{job_id}.cancel"):
                say(f"The request to cancel {job_id} stands: its worker obeys it when it sees it.")
            raise
        if not given["--json"]:
            _print(job_id, results[job_id])
        if results[job_id] in TERMINAL:
            say(f"{job_id} had ended already, as {results[job_id]}.")
        elif results[job_id] == "requested":
            say(f"{job_id} will be cancelled when its worker, or whoever takes the job back from it, sees the request;"
                f" `queuectl show {job_id}` shows how it goes on.")
    if given["--json"]:
        print(to_json(results))
    return OK if all(result == "cancelled" for result in results.values()) else NEGATIVE


def _print(*words: str) -> None:
    """Print at once, for the next job may take its time. Though nobody reads it any more, the others are done."""
    try:
        print(*words, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


def prune(given: Given) -> int:
    asked = _read(given)
    spool = open_spool(given)
    pruned = actions.prune(spool, asked.states, asked.older_than, asked.keep, asked.dry_run)
    if given["--json"]:
        print(to_json([{"id": entry.id, "state": entry.state} for entry in pruned]))
    elif asked.dry_run:
        for entry in pruned:
            print(entry.id, entry.state)
    verb = "would be" if asked.dry_run else "was" if len(pruned) == 1 else "were"
    say(f"{plural(len(pruned), 'job')} {verb} removed.")
    return OK


def _read(given: Given) -> Pruning:
    if all(given[option] is None for option in ("--state", "--older-than", "--keep")):
        raise Misuse("Say what to remove: --older-than, --keep or --state.", usage_of(PRUNE))
    states = states_of(given["--state"]) if given["--state"] is not None else (COMPLETED,)
    for state in states:
        if state not in TERMINAL:
            raise UsageError(f"Only ended jobs are removed; {state} ones have not ended. `queuectl cancel` ends them.")
    return Pruning(states, seconds(given, "--older-than"), whole(given, "--keep"), given["--dry-run"])


COMMANDS = {"cancel": (CANCEL, cancel), "prune": (PRUNE, prune)}
