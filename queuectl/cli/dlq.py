"""`dlq list`, `dlq retry`, `dlq purge`: the dead letter queue.

Here lie jobs that failed for good or were cancelled, and files that were no jobs at all (`.rejected`, with a reason).

When things go wrong with one of several jobs, that is said, the others are done nevertheless, and the exit code is 1.
"""

from __future__ import annotations

import sys

from queuectl import actions
from queuectl.cli.door import Given, open_spool
from queuectl.cli.look import limit_of
from queuectl.cli.pick import Row, attempts, described, pick, rows
from queuectl.cli.render import complain, moment, safe, say, table, to_json
from queuectl.core.states import DEAD
from queuectl.errors import NEGATIVE, OK, BadJob, NoSuchJob, SpoolError, UsageError
from queuectl.spool import Spool
from queuectl.talk import plural

GROUP = """\
Usage: queuectl dlq [options] [<action> [<argument>...]]

The dead letter queue: jobs that failed for good or were cancelled, and files
that were no jobs.

Actions:
  list         what lies there, and why
  retry        give jobs another life
  purge        remove everything that lies there

Options:
  --spool=DIR  the spool's directory
  -h, --help   show this text; `queuectl dlq <action> --help` shows more

Examples:
  queuectl dlq list
  queuectl dlq retry --all
"""

LIST = """\
Usage: queuectl dlq list [options]

Lists dead jobs, the newest first, with the reason; then the files that were
set aside because they were no jobs.

Options:
  --limit=N    at most so many, 0 for all; if not given, 50, with --json all
  --json       print a JSON array
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl dlq list
  queuectl dlq list --limit 0 --json
"""

RETRY = """\
Usage: queuectl dlq retry [options] (--all | [--] <id>...)

Gives dead jobs another life, with a fresh count of attempts; their history
is kept. It prints the ids of the jobs that wait again.

Options:
  --all        all dead jobs
  --json       print a JSON object: the ids, and whether they wait again
  --spool=DIR  the spool's directory
  -h, --help   show this text

Exit code: 0 if all wait again, 1 if one does not exist or was not dead.

Examples:
  queuectl dlq retry job1
  queuectl dlq retry --all
"""

PURGE = """\
Usage: queuectl dlq purge [options] [[--] <id>...]

Removes dead jobs with what they printed: those that are named, by id or by
the name of a file that was set aside; else all of them, and all files that
were set aside. Before it removes all it asks, on a terminal.

Options:
  --yes        don't ask
  --json       print a JSON object: how many were removed
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl dlq purge job1
  queuectl dlq purge --yes
"""


def list_dead(given: Given) -> int:
    spool = open_spool(given)
    picked = pick(spool, [DEAD], limit_of(given))
    found = [row for row in rows(spool, picked.entries) if row.entry.state == DEAD]
    rejected = list(spool.rejected())
    if given["--json"]:
        aside = [{"id": None, "file": name, "state": "rejected", "reason": reason} for name, reason in rejected]
        print(to_json([described(row) | {"reason": _reason(row)} for row in found] + aside))
    elif found or rejected:
        dead = [
            (row.entry.id, str(attempts(row)), moment(row.since), _reason(row), row.job.shown if row.job else "")
            for row in found
        ]
        dead += [(f"({name})", "", "", f"no job: {reason}", "") for name, reason in rejected]
        table(("ID", "ATTEMPTS", "SINCE", "REASON", "COMMAND"), dead)
    if picked.total > len(picked.entries):
        say(f"{picked.total - len(picked.entries):,} more are not shown; `--limit 0` shows all.")
    return OK


def retry(given: Given) -> int:
    spool = open_spool(given)
    job_ids = [entry.id for entry in spool.entries([DEAD])] if given["--all"] else given["<id>"]
    results = {job_id: _retry(spool, job_id) for job_id in dict.fromkeys(job_ids)}
    if given["--json"]:
        print(to_json(results))
    else:
        sys.stdout.write("".join(f"{job_id}\n" for job_id, retried in results.items() if retried))
    if not results:
        say("The dead letter queue holds no job.")
    return OK if all(results.values()) else NEGATIVE


def purge(given: Given) -> int:
    spool = open_spool(given)
    if given["--"] and not given["<id>"]:  # a list that turned out empty must not mean all
        raise UsageError("After -- come the ids of what is to be removed.")
    if given["<id>"]:
        return _purge_some(spool, given["<id>"], as_json=given["--json"])
    if sys.stdin.isatty() and sys.stderr.isatty() and not given["--yes"] and not _confirmed(spool):
        say("Nothing was removed.")
        return NEGATIVE
    _tell_purged(actions.purge(spool), as_json=given["--json"])
    return OK


def _purge_some(spool: Spool, job_ids: list[str], *, as_json: bool) -> int:
    removed, wanted = 0, dict.fromkeys(job_ids)
    for job_id in wanted:
        try:
            if actions.purge_one(spool, job_id):
                removed += 1
            else:
                say(f"{job_id} is not dead. `queuectl show {job_id}` says what it is.")
        except NoSuchJob as error:
            complain(error)
    _tell_purged(removed, as_json=as_json)
    return OK if removed == len(wanted) else NEGATIVE


def _tell_purged(removed: int, *, as_json: bool) -> None:
    if as_json:
        print(to_json({"purged": removed}))
    say(f"{plural(removed, 'dead letter')} {'was' if removed == 1 else 'were'} removed.")


def _reason(row: Row) -> str:
    return str(row.job.body.get("last_error") or "") if row.job else row.problem


def _retry(spool: Spool, job_id: str) -> bool:
    try:
        if actions.requeue(spool, job_id):
            return True
    except NoSuchJob as error:
        if aside := spool.find_rejected(job_id):
            say(f"dead/{aside} was set aside as no job. `queuectl show {job_id}` says why, and what to do.")
        else:
            complain(error)
    except BadJob as error:
        complain(UsageError(f"dead/{job_id}.json is no job any more: {error}. Mend it by hand, or purge it."))
    except SpoolError as error:
        if not error.is_of_one_file:
            raise
        complain(error)
    else:
        say(f"{job_id} is not dead. `queuectl show {job_id}` says what it is.")
    return False


def _confirmed(spool: Spool) -> bool:
    jobs = plural(spool.counts()[DEAD], "dead job")
    sys.stderr.write(f"Remove {jobs} from {safe(spool.root)}, and what was set aside? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


COMMANDS = {"dlq list": (LIST, list_dead), "dlq retry": (RETRY, retry), "dlq purge": (PURGE, purge)}
