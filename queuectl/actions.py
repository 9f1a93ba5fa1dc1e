"""What a person does to jobs: cancel, requeue, prune, purge, wait; and to workers: stop.

Each is safe against any worker on any host: what changes a job's state claims it first, with a lease held for that
moment, and settles it by R6, as a worker does. A running job is cancelled by whoever runs it: a request lies in
workers/ until it is done.

When things go wrong: who asks for an unknown job gets NoSuchJob; who loses the race for a job looks again where it
went. SpoolError for the rest.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from queuectl.core import job as jobs
from queuectl.core.backoff import CANCELLED, Outcome, explain
from queuectl.core.names import Record
from queuectl.core.states import DEAD, PENDING, PROCESSING, TERMINAL
from queuectl.core.times import SECOND, next_stamp, stamp
from queuectl.errors import BadJob, NoSuchJob
from queuectl.lease import ROLE_CLI, ROLE_WORKER, Lease, workers
from queuectl.recover import due, settle_now
from queuectl.spool import Entry, Settlement, Spool

FIRST_WAIT, LONGEST_WAIT = 0.005, 0.25  # seconds between two looks at a job that somebody else has
LOOK_SHARE = 4  # a look at what is waited for may take a fifth of the time
SEARCH_AGAIN = 10.0  # seconds between two searches for jobs that are waited for


def cancel(spool: Spool, job_id: str, timeout: float | None = 30.0) -> str:
    """Cancel a job: it goes to dead/ with the reason "cancelled", killed first if it runs.

    Returns "cancelled"; or "completed" or "dead" if it had ended already; or "requested" if whoever runs it hasn't
    answered within `timeout` seconds (None: for ever), or has died, and no worker is there to recover the job: the
    request stands. Raises NoSuchJob.
    """
    request = f"{job_id}.cancel"
    deadline = None if timeout is None else time.monotonic() + timeout
    asked, alone, pause = False, False, FIRST_WAIT
    while True:
        entry = spool.find(job_id)
        if entry is None:
            if asked:
                spool.remove_worker_file(request)
            elif dropped := spool.find_dropped(job_id):
                spool.adopt(dropped.name, spool.clock())  # or a worker has just done so
                continue
            elif spool.find(job_id):
                continue  # it has just been adopted
            raise NoSuchJob(job_id)
        if entry.state in TERMINAL:
            if not asked:
                return entry.state
            spool.remove_worker_file(request)
            return CANCELLED if _was_cancelled(spool, entry) else entry.state
        if entry.state == PROCESSING:
            if alone or (asked and deadline is not None and time.monotonic() >= deadline):
                return "requested"
            if not asked:
                spool.put_request(request)
                asked = True
                alone = not _has_listener(spool, entry.worker)
                continue  # if nobody is there to answer: is he gone because the job has ended?
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)
        elif _bury(spool, entry):
            if asked:
                spool.remove_worker_file(request)
            return CANCELLED
        else:
            alone = False  # somebody has just taken it


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C comes afterwards: between a claim and its settle the job would be left to recovery, as an attempt that was
    lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_listener(spool: Spool, holder: str) -> bool:
    """Whether anybody is alive who would obey a request to cancel what `holder` has claimed."""
    return any(one.alive and (one.id == holder or one.role == ROLE_WORKER) for one in workers(spool))


def _was_cancelled(spool: Spool, entry: Entry) -> bool:
    try:
        job = spool.load(entry)
    except BadJob:
        return False
    return entry.state == DEAD and job is not None and job.body.get("last_error") == explain(Outcome(CANCELLED))


def _bury(spool: Spool, entry: Entry) -> bool:
    """Move a waiting job to dead/. False if somebody else took it."""
    with _no_interrupt(), Lease(spool, ROLE_CLI) as lease:
        claim = spool.claim(entry, lease.worker, lease.next(), counted=False)
        if claim is None:
            return False
        try:
            job = spool.read_claim(claim)
        except BadJob as error:
            spool.reject(PROCESSING, claim.name, str(error))
            return True
        if job is None:
            return False
        now = spool.clock()
        data = jobs.settled(job, claim, claim.attempts, now, None, explain(Outcome(CANCELLED)))
        return settle_now(spool, Settlement(Record(claim, DEAD), data))


def requeue(spool: Spool, job_id: str) -> bool:
    """Give a dead job another life: it goes to pending/ with a fresh count of attempts, and keeps its history.

    False if it is not in dead/, or somebody else moved it just now. Raises NoSuchJob, BadJob.
    """
    entry = spool.find(job_id)
    if entry is None:
        raise NoSuchJob(job_id)
    if entry.state != DEAD:
        return False
    job = spool.load(entry)
    if job is None:
        return False
    with _no_interrupt(), Lease(spool, ROLE_CLI) as lease:
        # Later than the job was settled, whatever this host's clock says: if a network repeats the rename when the job
        # has died again, whoever recovers the claim sees it (recover.py).
        later = max(stamp(spool.clock()), next_stamp(stamp(jobs.last_settled(job))))
        entry = entry._replace(not_before=later, priority=job.priority, needs=job.needs)
        spool.remove_worker_file(f"{job_id}.cancel")  # it was for the life that has ended
        claim = spool.claim(entry, lease.worker, lease.next(), counted=False)
        if claim is None:
            return False
        try:
            job = spool.read_claim(claim)
        except BadJob as error:
            spool.reject(PROCESSING, claim.name, str(error))
            raise
        if job is None:
            return False
        now = spool.clock()
        record = Record(claim, PENDING, due(claim, now), 0)
        return settle_now(spool, Settlement(record, jobs.settled(job, claim, 0, now)))


def prune(
    spool: Spool, states: Iterable[str], older_than: float | None, keep: int | None, dry_run: bool = False
) -> list[Entry]:
    """Remove ended jobs with their logs and reserved ids; the entries removed (or, with `dry_run`, to be removed).

    `older_than`: only those that ended more than that many seconds ago. `keep`: the newest that many of each state
    stay.
    """
    pruned: list[Entry] = []
    if not dry_run:
        spool.check_maker()
    for state in states:
        assert state in TERMINAL, state
        aged = [(when, entry) for entry in spool.entries([state]) if (when := spool.modified(entry)) is not None]
        aged.sort(key=lambda pair: pair[0], reverse=True)
        limit = spool.clock() / SECOND - (older_than or 0.0)
        for when, entry in aged[keep or 0 :]:
            if older_than is not None and when >= limit:
                continue
            # It may have been requeued, and have died again, since it was listed.
            if dry_run or (spool.modified(entry) == when and spool.remove_job(entry)):
                pruned.append(entry)
    return pruned


def purge(spool: Spool) -> int:
    """Remove all dead letters, and what was set aside as no job. How many they were."""
    spool.check_maker()
    for name in spool.names(DEAD):  # a crash may leave a reason without its file
        if name.endswith(".rejected.reason") and not spool.exists(DEAD, name.removesuffix(".reason")):
            spool.remove_rejected(name.removesuffix(".reason"))
    removed = sum(1 for entry in list(spool.entries([DEAD])) if spool.remove_job(entry))
    return removed + sum(1 for name, _ in list(spool.rejected()) if spool.remove_rejected(name))


def purge_one(spool: Spool, job_id: str) -> bool:
    """Remove one dead letter, or the file of that name that was set aside as no job. False if the job is not dead, or
    somebody else moved it just now. Raises NoSuchJob."""
    spool.check_maker()
    entry = spool.find(job_id)
    if entry is not None:
        return entry.state == DEAD and spool.remove_job(entry)
    if aside := spool.find_rejected(job_id):
        return spool.remove_rejected(aside)
    raise NoSuchJob(job_id)


def request_stop(spool: Spool, workers: Iterable[str], now: bool) -> None:
    """Ask workers, on whatever host, to stop: after their running jobs, or `now`."""
    for worker in workers:
        spool.put_request(f"{worker}.stop", b'{"now": true}\n' if now else b'{"now": false}\n')


def wait(
    spool: Spool,
    job_ids: Iterable[str],
    timeout: float | None = None,
    progress: Callable[[dict[str, str]], None] = lambda _: None,
) -> dict[str, str] | None:
    """Wait until all these jobs have ended; their states (completed or dead), or None at the timeout (seconds).

    `progress` is called with the states of those that have ended. Raises NoSuchJob.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    waiting = list(dict.fromkeys(job_ids))
    ended: dict[str, str] = {}
    pause, look_at = FIRST_WAIT, 0.0
    while True:
        before = len(ended)
        if time.monotonic() >= look_at:  # one that is not there, or was pruned meanwhile, would never end
            present = spool.find_all(waiting)
            for job_id in waiting:
                if job_id not in present and not spool.find_dropped(job_id) and not spool.find(job_id):
                    raise NoSuchJob(job_id)
            look_at = time.monotonic() + SEARCH_AGAIN
        looked = time.monotonic()
        ended |= {job_id: entry.state for job_id, entry in spool.ended(waiting).items()}
        took = time.monotonic() - looked
        waiting = [job_id for job_id in waiting if job_id not in ended]
        progress(ended)
        if not waiting:
            return ended
        if deadline is not None and time.monotonic() >= deadline:
            return None
        pause = FIRST_WAIT if len(ended) > before else min(2 * pause, LONGEST_WAIT)
        pause = max(pause, LOOK_SHARE * took)  # a thousand jobs on a network file system are not asked for all the time
        time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))
