"""`worker start`, `worker stop`, `worker list`.

Owns the start in the background and the waiting for a stop; the work itself is worker.py's.

When things go wrong: a worker that ends before it has registered shows the end of its log (exit 3). Ctrl-C while
waiting for a stop leaves the request in place: the workers go on stopping.
"""

from __future__ import annotations

import select
import sys
import time
from typing import NamedTuple

from queuectl import config
from queuectl.actions import request_stop
from queuectl.cli.door import Given, open_spool, whole
from queuectl.cli.render import moment, safe, say, table, to_json
from queuectl.core.names import LONGEST_LABEL, is_label
from queuectl.core.times import parse_instant, say_duration
from queuectl.errors import NEGATIVE, OK, ConfigError, UsageError
from queuectl.lease import ROLE_WORKER, WorkerInfo, setting, workers
from queuectl.spool import Spool
from queuectl.talk import plural

READER_PATIENCE = 1.0  # seconds until a line is left out that nobody reads
LONGEST_LINE = 1_000  # characters: a pipe that is not full takes 4,096 bytes without blocking (PIPE_BUF, pipe(7))

GROUP = """\
Usage: queuectl worker [options] [<action> [<argument>...]]

Workers run the jobs. One worker is one process with as many slots as you
like; several on one spool, on one host or many, share the work.

Actions:
  start        start one, here or in the background
  stop         stop some or all, on whatever host
  list         who works

Options:
  --spool=DIR  the spool's directory
  -h, --help   show this text; `queuectl worker <action> --help` shows more

Examples:
  queuectl worker start --count 3
  queuectl worker stop
"""

MOST_SLOTS = 10_000

START = """\
Usage: queuectl worker start [options] [--label=NAME]...

Starts a worker, in the foreground: Ctrl-C or SIGTERM lets the running jobs
end, a second one stops them. They go back to the queue.

Options:
  -c N, --count=N        run so many jobs at once  [default: 1]
  -d, --detach           in the background: prints the worker's id; what it
                         says is in the spool's logs/
  --until-empty          end when nothing is left that it could run
  --label=NAME           takes the jobs that need this label, too (enqueue
                         --needs); may be repeated
  --json                 with --detach: print {"id": ...}
  --spool=DIR            the spool's directory
  -h, --help             show this text

Settings, for this worker only (`queuectl config list` explains them):
  --max-retries=N        retries after the first attempt
  --backoff-base=N       a retry waits N ^ attempts seconds
  --backoff-max=TIME     no retry waits longer
  --jitter=KIND          none, full or equal
  --default-timeout=TIME for jobs without one
  --log-level=LEVEL      debug, info, warning or error
  --heartbeat=TIME       how often it shows that it is alive
  --stale-after=TIME     when another host's worker counts as dead
  --poll-interval=TIME   how often a network file system is listed
  --stop-grace=TIME      how long a stop lets jobs run
  --durability=KIND      fsync or none
  --min-free=SIZE        below this, no job is started
  --max-log=SIZE         a log keeps its beginning and its newest output
  --permanent-exit-codes=LIST
                         a job that ends with one of these is dead at once

Examples:
  queuectl worker start
  queuectl worker start --count 3 --detach
  queuectl worker start -c 8 --until-empty --log-level warning
"""

STOP = """\
Usage: queuectl worker stop [options] [--] [<id>...]

Stops workers, all if none is named, on whatever host: their running jobs
end, and none is started. It waits for that, and says what it waits for;
then it prints the ids.

Options:
  --now        stop the running jobs too; they go back to the queue
  --no-wait    only ask
  --json       print a JSON array of the ids
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl worker stop
  queuectl worker stop --now
"""

LIST = """\
Usage: queuectl worker list [options]

Lists the workers of all hosts, and those that died without a word and have
not been noticed yet by another.

Options:
  --json       print a JSON array
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl worker list
"""


class Start(NamedTuple):
    """What `worker start` is asked for. `flags` are settings by key."""

    slots: int
    detach: bool
    until_empty: bool
    as_json: bool
    labels: tuple[str, ...]
    flags: dict[str, str]

    def arguments(self) -> list[str]:
        """The same, as a command line for a worker in the foreground."""
        words = [f"--count={self.slots}", *(["--until-empty"] if self.until_empty else [])]
        return [*words, *(f"--label={label}" for label in self.labels), *(f"--{k}={v}" for k, v in self.flags.items())]


def start(given: Given) -> int:
    asked = _read_start(given)
    spool = open_spool(given, create=True)
    if asked.detach:
        from queuectl.cli.detach import start_detached

        return start_detached(spool, asked.arguments(), as_json=asked.as_json)
    from queuectl import worker

    return worker.run(
        spool, count=asked.slots, until_empty=asked.until_empty, flags=asked.flags, labels=asked.labels, say=_Lines()
    )


def stop(given: Given) -> int:
    spool = open_spool(given)
    alive = _alive(spool)
    wanted = list(dict.fromkeys(given["<id>"])) or list(alive)
    code = OK
    for worker_id in [one for one in wanted if one not in alive]:
        say(f"There is no worker {worker_id!a} alive. `queuectl worker list` lists them.")
        wanted.remove(worker_id)
        code = NEGATIVE
    if not wanted and code == OK:
        say("No worker is running.")
    request_stop(spool, wanted, given["--now"])
    if not given["--no-wait"]:
        try:
            _await_end(spool, set(wanted))
        except KeyboardInterrupt:
            say("They have been told to stop, and will. `queuectl worker list` shows who still runs.")
            raise
    if given["--json"]:
        print(to_json(wanted))
    else:
        sys.stdout.write("".join(f"{worker_id}\n" for worker_id in wanted))
    return code


def list_workers(given: Given) -> int:
    spool = open_spool(given)
    found = [one for one in workers(spool) if one.role == ROLE_WORKER]
    busy = _running(spool)
    if given["--json"]:
        print(to_json([
            {"id": one.id, "host": one.host, "pid": one.pid, "alive": one.alive, "stopping": one.stopping,
             "slots": one.slots, "running": busy.get(one.id, []), "labels": list(one.labels),
             "started_at": one.started_at, "heartbeat_age": round(one.heartbeat_age, 3), "version": one.version}
            for one in found
        ]))  # fmt: skip
    elif found:
        table(
            ("ID", "HOST", "PID", "STATE", "RUNNING", "STARTED", "HEARTBEAT", "VERSION", "LABELS"),
            [(one.id, one.host, str(one.pid), _state(one),
              f"{len(busy.get(one.id, []))} of {one.slots}", _started(one),
              f"{say_duration(one.heartbeat_age)} ago", one.version, ", ".join(one.labels)) for one in found],
        )  # fmt: skip
        if spool.network:
            say(f"The spool lies on {spool.mode(setting(spool, 'poll-interval'))}.")
    else:
        say("No worker is running. `queuectl worker start` starts one.")
    return OK


def _read_start(given: Given) -> Start:
    slots = whole(given, "--count", 1)
    assert slots is not None
    if slots > MOST_SLOTS:
        raise UsageError(f"--count may be {MOST_SLOTS} at most; each slot runs one job at a time.")
    flags: dict[str, str] = {}
    for key in config.BY_KEY:
        if given[f"--{key}"] is not None:
            try:
                config.read_value(key, given[f"--{key}"], f"--{key}")
            except ConfigError as error:
                raise UsageError(str(error)) from None
            flags[key] = given[f"--{key}"]
    labels = tuple(dict.fromkeys(given["--label"]))
    for label in labels:
        if not is_label(label):
            raise UsageError(f"--label: {label!a} cannot be a label; use 1 to {LONGEST_LABEL} letters, digits, - and _,"
                             " not beginning with -. For several labels repeat the option.")
    return Start(slots, given["--detach"], given["--until-empty"], given["--json"], labels, flags)


def _state(one: WorkerInfo) -> str:
    return "dead" if not one.alive else "stopping" if one.stopping else "alive"


def _started(one: WorkerInfo) -> str:
    try:
        return moment(parse_instant(one.started_at))
    except ValueError:
        return one.started_at


class _Lines:
    """What a worker says, on stderr. Whoever reads it and has stopped to (Ctrl-S, a pager, a log shipper that hangs)
    must not hold the jobs up: after a moment lines are left out, until there is room again."""

    def __init__(self) -> None:
        self._left_out = 0
        self._poller = select.poll()
        self._poller.register(2, select.POLLOUT)

    def __call__(self, line: str) -> None:
        if not self._poller.poll(0 if self._left_out else READER_PATIENCE * 1000):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        before = f"({plural(left_out, 'line')} left out, for nobody read)\n" if left_out else ""
        sys.stderr.write(f"{before}{safe(line)[:LONGEST_LINE]}\n")
        sys.stderr.flush()


def _alive(spool: Spool) -> dict[str, WorkerInfo]:
    return {one.id: one for one in workers(spool) if one.alive and one.role == ROLE_WORKER}


def _running(spool: Spool) -> dict[str, list[str]]:
    """The jobs that each worker has claimed."""
    running: dict[str, list[str]] = {}
    for claim in sorted(spool.claims()):
        running.setdefault(claim.worker, []).append(claim.id)
    return running


def _await_end(spool: Spool, stopping: set[str]) -> None:
    said, pause = "", 0.02
    while left := {name: one for name, one in _alive(spool).items() if name in stopping}:
        busy = _running(spool)
        now = "; ".join(_waits_for(one, busy.get(name, [])) for name, one in sorted(left.items()))
        if now != said and pause > 0.1:  # what is over in a moment needs no words
            say(f"Waiting for {now}.")
            said = now
        time.sleep(pause)
        pause = min(1.5 * pause, 0.5)


def _waits_for(one: WorkerInfo, job_ids: list[str]) -> str:
    shown = ", ".join(job_ids[:5]) + (", ..." if len(job_ids) > 5 else "")
    jobs = f": {plural(len(job_ids), 'job')} running ({shown})" if job_ids else ""
    return f"worker {one.id} on {one.host}{jobs}"


COMMANDS = {
    "worker start": (START, start), "worker stop": (STOP, stop), "worker list": (LIST, list_workers),
}  # fmt: skip
