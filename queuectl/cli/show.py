"""`show`: one job, its history, and why it is not running.

When things go wrong: an unknown id is NoSuchJob (exit 1); a file that was set aside as no job is shown with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from queuectl.cli.door import Given, open_spool
from queuectl.cli.look import disk_refuses
from queuectl.cli.pick import Row, attempts, described, since
from queuectl.cli.render import MASK, block, fields, paint, safe, to_json, when
from queuectl.core.names import SUFFIX, is_met
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING, WAITING
from queuectl.core.times import SECOND, local, say_duration, unstamp
from queuectl.errors import NEGATIVE, OK, BadJob, NoSuchJob, SpoolError
from queuectl.lease import ROLE_WORKER, WorkerInfo, setting, workers
from queuectl.spool import Spool
from queuectl.talk import plural

TEXT = """\
Usage: queuectl show [options] [--] <id>

Shows one job: its state, why it is not running, what it is, and its
history. The values of its environment are not shown.

Options:
  --json       print its record as a JSON object, with state and reason
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl show job1
  queuectl show --json job1
"""


def show(given: Given) -> int:
    spool = open_spool(given)
    row = _find(spool, given["<id>"])
    if row is None:
        return _show_file(spool, given["<id>"], given["--json"])
    why = reason(spool, row)
    if given["--json"]:
        print(to_json(described(row) | {"reason": why}))
        return OK
    _show(spool, row, why)
    return OK


def _find(spool: Spool, job_id: str) -> Row | None:
    for _ in range(3):  # it may move between the look for it and the reading
        if (entry := spool.find(job_id)) is None:
            return None
        problem = ""
        try:
            job = spool.load(entry)
            if job is None:
                continue
        except BadJob as error:
            job, problem = None, str(error)
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            job, problem = None, str(error)
        return Row(entry, job, problem, since(spool, entry, job))
    assert entry is not None
    # Between two places all the time: whoever settles it cannot write where it goes.
    return Row(entry, None, "it has ended, but its outcome cannot be written; its worker says why", None)


# -- why it is where it is --------------------------------------------------------------------------------------------


def reason(spool: Spool, row: Row) -> str:
    """One sentence: why the job is not running, or what became of it."""
    entry, job = row.entry, row.job
    if entry.state == COMPLETED:
        return "it has completed"
    if entry.state == DEAD:
        error = str(job.body.get("last_error") or "it failed") if job else row.problem
        return f"it is in the dead letter queue: {error}; `queuectl dlq retry {entry.id}` gives it another life"
    leases = workers(spool)
    cancelled = spool.has_request(f"{entry.id}.cancel")
    if entry.state == PROCESSING:
        return _running(entry.worker, leases, row, cancelled)
    if cancelled:
        return f"it is to be cancelled: whoever works next does it, or `queuectl cancel {entry.id}` at once"
    first = ""
    if entry.state == FAILED:
        first = f"its last attempt failed ({str(job.body.get('last_error') or '?') if job else row.problem}); "
    seconds = (unstamp(entry.not_before) - spool.clock()) / SECOND if entry.not_before else 0.0
    if seconds > 0:
        return f"{first}it waits until {local(unstamp(entry.not_before))} (for another {say_duration(seconds)})"
    return first + _waiting(spool, [one for one in leases if one.alive and one.role == ROLE_WORKER], entry.needs)


def _running(worker: str, leases: list[WorkerInfo], row: Row, cancelled: bool) -> str:
    holder = next((one for one in leases if one.id == worker), None)
    if holder is None or not holder.alive:
        then = "cancels it" if cancelled else "takes the job back"
        return f"its worker {worker} is dead; whoever works next {then}"
    began = f" since {local(row.since)}" if row.since is not None else ""
    asked = "; it has been asked to cancel the job" if cancelled else ""
    return f"it runs on {holder.host}{began}, by worker {worker}{asked}"


def _waiting(spool: Spool, everybody: list[WorkerInfo], needs: str) -> str:
    able = _able(everybody, needs)
    alive = [one for one in able if not one.stopping]
    if able and not alive:
        return f"it waits for a worker: {'each' if len(able) > 1 else 'the one'} that could take it is stopping"
    if needs and not alive:
        options = "".join(f" --label {label}" for label in needs.split("+"))
        return (f"it waits for a worker with {_labels(needs)}: {plural(len(everybody), 'worker')} alive, none with"
                f" {'them' if '+' in needs else 'it'}; `queuectl worker start{options}` starts one")  # fmt: skip
    if not alive:
        return "it waits for a worker: none is alive; `queuectl worker start` starts one"
    if full := disk_refuses(spool):
        return full
    theirs = {one.id for one in alive}
    slots, busy = sum(one.slots for one in alive), sum(1 for claim in spool.claims() if claim.worker in theirs)
    there = f" of workers with {_labels(needs)}" if needs else ""
    if busy >= slots:
        return f"it waits for a slot: all {slots}{there} are busy"
    return f"it is about to run: {plural(slots - busy, 'slot')} of {slots}{there} are free"


def _able(alive: list[WorkerInfo], needs: str) -> list[WorkerInfo]:
    return [one for one in alive if is_met(needs, frozenset(one.labels))]


def _labels(needs: str) -> str:
    """`the label gpu`, `the labels gpu and ssd`."""
    labels = needs.split("+")
    if len(labels) == 1:
        return f"the label {needs}"
    return f"the labels {', '.join(labels[:-1])} and {labels[-1]}"


# -- for people -------------------------------------------------------------------------------------------------------


def _show(spool: Spool, row: Row, why: str) -> None:
    entry, job = row.entry, row.job
    body: Mapping[str, Any] = job.body if job else {}
    pairs = [("Job", entry.id), ("State", paint(entry.state, entry.state)), ("Reason", safe(why))]
    if row.problem:
        pairs.append(("Problem", safe(row.problem)))
    if job:
        pairs.append(("Command", block(job.shown, " " * 13)))
    pairs += [("Priority", str(job.priority if job else entry.priority)), ("Attempts", _of(spool, row))]
    for name, member in (("Created", "created_at"), ("Not earlier", "run_at"), ("Updated", "updated_at")):
        if isinstance(body.get(member), str):
            pairs.append((name, when(body[member])))
    if job:
        pairs += [("Directory", safe(job.cwd))] if job.cwd else []
        pairs += [("Environment", ", ".join(f"{safe(name)}={MASK}" for name in job.env))] if job.env else []
        pairs += [("Needs", _who_has(spool, job.needs, entry.state))] if job.needs else []
        pairs += [("Timeout", say_duration(job.timeout))] if job.timeout else []
        pairs += [("Backoff", _backoff(job.backoff_base, job.backoff_max, job.jitter))] if _has_backoff(row) else []
    pairs.append(("File", safe(spool.path_of(entry))))
    fields([(f"{name:<11}", value) for name, value in pairs])
    if job and job.history:
        print("\nHistory")
        for attempt in job.history:
            print(f"  {_attempt(attempt)}")


def _who_has(spool: Spool, needs: str, state: str) -> str:
    """The labels; and how many have them, as long as that matters."""
    shown = ", ".join(needs.split("+"))
    if state not in WAITING:
        return shown
    alive = [one for one in workers(spool) if one.alive and one.role == ROLE_WORKER]
    return f"{shown} ({len(_able(alive, needs))} of {plural(len(alive), 'worker')} alive can take it)"


def _of(spool: Spool, row: Row) -> str:
    most = row.job.max_retries if row.job else None
    if most is None:
        most = int(setting(spool, "max-retries"))
    return f"{attempts(row)} of {most + 1} at most"


def _has_backoff(row: Row) -> bool:
    job = row.job
    return job is not None and (job.backoff_base, job.backoff_max, job.jitter) != (None, None, None)


def _backoff(base: float | None, most: float | None, jitter: str | None) -> str:
    parts = [
        f"{base:g} ^ attempts seconds" if base is not None else "",
        f"at most {say_duration(most)}" if most is not None else "",
        f"jitter {jitter}" if jitter is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _attempt(entry: Mapping[str, Any]) -> str:
    """One line of the history: `1  exit code 1, 0.01s, 2026-11-22 10:15:30 +0100, on alpha, job.1.log`."""
    if "exit_code" in entry:
        how = f"exit code {entry['exit_code']}"
    elif "signal" in entry:
        how = f"killed by signal {entry['signal']}"
    else:
        how = str(entry.get("reason", "?"))
    parts = [how]
    if isinstance(entry.get("duration"), (int, float)):
        parts.append(say_duration(entry["duration"]))
    moment = entry.get("started_at") or entry.get("finished_at")
    parts += [when(str(moment))] if moment else []
    place = entry.get("host") or entry.get("worker")
    parts += [f"on {place}"] if place else []
    parts += [str(entry["log"]) if entry.get("log") else "printed nothing"]
    return safe(f"{entry.get('attempt', '?'):>2}  {', '.join(parts)}")


def _show_file(spool: Spool, name: str, as_json: bool) -> int:
    """What was dropped under that name, and is no job (yet). NoSuchJob."""
    state, path, why, then = _dropped(spool, name) or _rejected(spool, name)
    if as_json:
        print(to_json({"id": None, "file": path.rpartition("/")[2], "state": state, "reason": why}))
    else:
        fields([("File", safe(path)), ("State", state), ("Reason", safe(why)), ("Next", then)])
    return NEGATIVE


def _dropped(spool: Spool, name: str) -> tuple[str, str, str, str] | None:
    """A dropped file that no worker has adopted yet, by its name or the id in it: its state, its path, why it is there,
    and what comes next."""
    named = (one for one in spool.entries([PENDING]) if not one.id and one.name in (name, name + SUFFIX))
    entry = next(named, None) or spool.find_dropped(name)
    if entry is None:
        return None
    why, then = "no worker has looked at it yet", "`queuectl worker start` starts one"
    if spool.is_directory(entry.name):
        why, then = "it is a directory, and no job", "workers leave it alone; move it away"
    else:
        try:
            spool.load(entry)
        except BadJob as error:
            why, then = f"it is no job: {error}", "mend it; else the next worker sets it aside in dead/"
    return PENDING, spool.path_of(entry), why, then


def _rejected(spool: Spool, name: str) -> tuple[str, str, str, str]:
    rejected = spool.find_rejected(name)
    if rejected is None:
        raise NoSuchJob(name)
    then = f"mend it, and move it back into {PENDING}/ under a name that ends in .json"
    return "rejected", spool.dir(DEAD) + rejected, f"it is no job: {spool.reason_of(rejected)}", then


COMMANDS = {"show": (TEXT, show)}
