"""`enqueue`: accept jobs, and print their ids.

Owns what the command line says of a new job: a command, a list of words, or JSON; options win over members. Imports as
little as it can: this is the command that is called a thousand times by other programs.

When things go wrong: a job that cannot be accepted is BadJob with the member's name (exit 2) and nothing is accepted.
An id is printed when the job is kept, not before (R2).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.cli.door import Given, Misuse, open_spool, seconds, usage_of, whole
from queuectl.core import job as jobs
from queuectl.errors import OK, BadJob, SpoolError, UsageError, cut

if TYPE_CHECKING:
    from queuectl.spool import Spool

TEXT = """\
Usage: queuectl enqueue [options] [--env=NAME=VALUE]... [--needs=LABEL]...
                        [--] [<job>...]

Accepts a job and prints its id. When the id is printed, the job is kept.
A job is a command line for /bin/sh in quotes; or a JSON object (it begins
with "{"); or, after --, a program and its arguments, run without a shell.
It runs in the directory where it was enqueued.

Options:
  --command=TEXT     the command line; it may begin with "{" or "-"
  --id=ID            a name of your choice; not taken twice until it is pruned
  --priority=N       -999 to 999, higher first; 0 if not given
  --run-at=TIME      not before: 2026-11-22T09:15:30Z; local without a zone
  --in=TIME          not before: 90s, 10m, 3h, 2d or 1h30m from now
  --max-retries=N    retries after a failed attempt; else the setting
  --backoff-base=N   a retry waits N ^ attempts seconds; else the setting
  --timeout=TIME     end an attempt after so long: 90s, 10m, 3h
  --cwd=DIR          run in this directory
  --env=NAME=VALUE   set a variable; NAME alone takes the value that it has
                     here; may be repeated
  --needs=LABEL      only a worker with this label runs it; may be repeated
  --batch=FILE       many jobs, one a line, each JSON or a command line; empty
                     lines and those that begin with # are left out; - is stdin
  --json             print {"id": ...}
  --spool=DIR        the spool's directory
  -h, --help         show this text

Options win over the members of JSON. The members are: command or argv, id,
priority, run_at, max_retries, timeout, backoff_base, backoff_max, jitter,
cwd, env, needs; others are kept.

Examples:
  queuectl enqueue "curl https://api.example.com"
  queuectl enqueue -- convert in.jpg out.png
  queuectl enqueue '{"command": "echo hi", "priority": 3, "id": "job1"}'
  queuectl enqueue --in 10m --env LANG=C "backup --all"
  queuectl enqueue --batch jobs.txt
"""


class Asked(NamedTuple):
    """What the command line asks for: JSON, or the members that say what to run, or a batch."""

    json: str | None
    work: dict[str, Any]
    batch: str | None
    options: dict[str, Any]
    cwd: str
    as_json: bool

    def job(self, given: jobs.Job | dict[str, Any]) -> jobs.Job:
        """The job to accept: what was given, the options, and the directory if neither says one. Raises BadJob."""
        if self.options:
            body = given.body if isinstance(given, jobs.Job) else given
            options = self.options
            if "env" in options and isinstance(body.get("env"), dict):
                options = options | {"env": body["env"] | options["env"]}
            given = body | options
        job = given if isinstance(given, jobs.Job) else jobs.check(given)
        return job if job.cwd is not None else job._replace(cwd=self.cwd, body=job.body | {"cwd": self.cwd})


def enqueue(given: Given) -> int:
    asked = _read(given)
    if asked.batch is not None:
        from queuectl.cli.batch import enqueue_batch

        return enqueue_batch(asked, lambda: open_spool(given, create=True))
    if asked.json is not None:
        job = asked.job(_parse(asked.json))
        _doubt(job)
    else:
        job = asked.job(asked.work)
    spool = open_spool(given, create=True)
    show_ids(spool.enqueue_many([job]), asked.as_json)
    if sys.stderr.isatty():
        hint(spool)
    return OK


def show_ids(ids: list[str], as_json: bool) -> None:
    """Print the ids of accepted jobs, one a line, and flush: whoever reads them may count on the jobs. SpoolError says
    that they were accepted though they could not be printed."""
    try:
        sys.stdout.write("".join(f'{{"id": "{job_id}"}}\n' if as_json else f"{job_id}\n" for job_id in ids))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from queuectl.cli import abandon_output

        abandon_output()
        jobs_are = f"Job {ids[0]} was" if len(ids) == 1 else f"{len(ids):,} jobs (the first is {ids[0]}) were"
        raise SpoolError(
            f"{jobs_are} accepted, but stdout could not be written: {error.strerror}. Look where the output goes, and"
            " do not enqueue again.", path="stdout", errno=error.errno or 0,
        ) from None  # fmt: skip


def hint(spool: Spool, then: str = "the job waits") -> None:
    """Tell a person that nobody works here yet. Never an error: the job is accepted."""
    from queuectl.lease import ROLE_WORKER, workers

    try:
        there = any(one.alive and one.role == ROLE_WORKER for one in workers(spool))
    except SpoolError:
        return
    if not there:
        from queuectl.cli.render import say

        say(f"No worker is running; {then}. `queuectl worker start` starts one.")


def _read(given: Given) -> Asked:
    words: list[str] = given["<job>"]
    command, batch = given["--command"], given["--batch"]
    ways = [bool(words) or given["--"], command is not None, batch is not None]
    if sum(ways) != 1:
        raise Misuse(
            "Give one of: a job, --command or --batch." if any(ways) else "Give a job: a command line in quotes.",
            usage_of(TEXT),
        )
    json, work = None, dict[str, Any]()
    if given["--"]:
        if not words:
            raise Misuse("After -- come the program and its arguments.", usage_of(TEXT))
        work = {"argv": words}
    elif len(words) > 1:
        at = words.index("--") if "--" in words else 0
        raise Misuse(
            f"Put -- before the first word: queuectl enqueue -- {_plain(words[:at] + words[at + 1:])}" if at else
            "A command of several words goes into quotes, or after --:"
            f" queuectl enqueue \"{_plain(words)}\", or queuectl enqueue -- {_plain(words)}",
            usage_of(TEXT),
        )
    elif words == ["-"]:
        raise UsageError("- is no command. `--batch -` reads jobs from stdin, one a line.")
    elif words and words[0].lstrip().startswith("{"):
        json = words[0]
    elif words and words[0].lstrip().startswith("[{"):
        raise UsageError("A job is one JSON object, not a list. `--batch` takes many, one a line.")
    elif batch is None:
        work = {"command": command if command is not None else words[0]}
    if batch is not None and given["--id"] is not None:
        raise UsageError("--id names one job, and --batch accepts many. Write the ids into the batch, as JSON.")
    for value in (*words, command or "", *given["--env"]):
        if not value.isascii():
            _check_utf8(value)
    return Asked(json, work, batch, _options(given), _cwd(given["--cwd"]), given["--json"])


def _options(given: Given) -> dict[str, Any]:
    options: dict[str, Any] = {
        "id": given["--id"],
        "priority": whole(given, "--priority", -1 << 60),
        "max_retries": whole(given, "--max-retries"),
        "timeout": seconds(given, "--timeout"),
        "run_at": given["--run-at"],
        "cwd": None if given["--cwd"] is None else _cwd(given["--cwd"]),
        "env": dict(map(_variable, given["--env"])) or None,
        "needs": given["--needs"] or None,
    }
    if given["--backoff-base"] is not None:
        try:
            options["backoff_base"] = float(given["--backoff-base"])
        except ValueError:
            raise UsageError(f"--backoff-base must be a number, not {given['--backoff-base']!a}.") from None
    if (delay := seconds(given, "--in")) is not None:
        if given["--run-at"] is not None:
            raise UsageError("--in and --run-at both say when; give one of them.")
        from queuectl.core.times import LAST, SECOND, iso

        run_at = _now(given) + int(delay * SECOND)
        if run_at > LAST:
            raise UsageError(f"--in {given['--in']} is after the year 9999.")
        options["run_at"] = iso(run_at)
    return {name: value for name, value in options.items() if value is not None}


def _now(given: Given) -> int:
    """Now, by the clock of the spool, if there is one yet: a bad job must not make one."""
    try:
        return open_spool(given).clock()
    except SpoolError:
        return time.time_ns()


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if name and not equals and name in os.environ:
        return name, os.environ[name]
    if not name or not equals:
        what = f"{text!a} is not set here; give its value" if name else f"not {text!a}"
        raise UsageError(f"--env takes NAME=VALUE, or the NAME of a variable that is set here: {what}.")
    return name, value


def _cwd(asked: str | None) -> str:
    """The directory that the job runs in: the one that was asked for, else where we are."""
    if asked == "":
        raise UsageError("--cwd is empty; leave it out to run in the directory where you are.")
    try:
        cwd = os.path.abspath(asked) if asked is not None else os.getcwd()
    except FileNotFoundError:
        raise UsageError("The working directory is gone. Change to another one, or give --cwd /DIR.") from None
    if not cwd.isascii():
        _check_utf8(cwd)
    return cwd


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!a} is not UTF-8, as a job file is. Put it into a script, and enqueue that.") from None


def _parse(text: str) -> jobs.Job:
    try:
        return jobs.parse(text.encode())
    except BadJob as error:
        if not error.member and error.why.startswith("not JSON"):
            raise BadJob("", f"{error.why}. For a shell command that begins with {{ use --command.") from None
        raise


def _doubt(job: jobs.Job) -> None:
    """Tell of members that are kept, for any may be, but look like a slip of the pen."""
    if strange := [name for name in job.body if name not in jobs.KNOWN]:
        from difflib import get_close_matches

        from queuectl.cli.render import say

        for name in strange:
            for meant in get_close_matches(name.lower(), jobs.KNOWN, 1, 0.75):
                say(f"{cut(name)} means nothing to queuectl, and is kept with the job. Did you mean {meant}?")


def _plain(words: list[str]) -> str:
    import shlex

    return shlex.join(words)


COMMANDS = {"enqueue": (TEXT, enqueue)}
