"""Recovery: what a dead worker left behind is brought to its end (R6, R7, R8), and what nobody needs is swept.

Anyone with a lease may recover, and any number may at once: each step is a rename that one of them wins. The state
table in docs/internals.md has a row for each crash point. Never judges who is dead (lease.py does), and never takes a
settled record from under somebody: it is copied.

When things go wrong: a process that won't die keeps its job where it is, with a warning, until the next look; so does a
file that cannot be read, and the others go on. Another user's file is set aside. Any other SpoolError leaves all as it
was; recovery is repeated in any case.

It is long because all that a crash may leave should be found in one place: lost attempts, spent claims, doubles.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from queuectl import orphans
from queuectl.core import job as jobs
from queuectl.core.backoff import CANCELLED, LOST, Decision, Outcome, Policy, decide, explain
from queuectl.core.names import SUFFIX, Claim, Record
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING, TERMINAL, strength
from queuectl.core.times import iso, next_stamp, stamp
from queuectl.disk import WORKERS
from queuectl.errors import BadJob, SpoolError
from queuectl.lease import ROLE_WORKER, Lease, WorkerInfo
from queuectl.spool import DRAFT_AGE, Entry, Settlement, Spool, looks_generated

KILL_LIMIT = 2.0  # seconds to wait for a killed orphan to be gone
CLOSING = 0.5  # seconds that a process which has just been killed may take to close its files


class Unreadable(SpoolError):
    """One file cannot be read or moved now, by its own fault or its disk's: the others can be recovered."""


class Recovery:
    """Recovers for one holder of a lease. `policy` gives the retry settings in force, `max_log` the bound of logs in
    bytes (None for none); `say(level, text)` is told what is done."""

    def __init__(
        self, spool: Spool, lease: Lease, policy: Callable[[], Policy], say: Callable[[str, str], None],
        max_log: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._lease = lease
        self._policy = policy
        self._max_log = max_log
        self._say = say
        self.is_stuck = False  # something of a dead worker is alive, and awaited: `run` again in a while
        self._told: set[str] = set()  # the attempts whose files could not be read
        self._begun: dict[int, tuple[Claim, WorkerInfo | None]] = {}  # by claim number: whose claim it was

    def has_begun(self, claim: Claim) -> bool:
        """Whether a claim of ours is one that `run` took over, or tried to, before the disk failed: `run` finishes
        it. It must not be given back like a claim whose reply was lost: its attempt was made, and may have ended."""
        return claim.worker == self._lease.worker and claim.n in self._begun

    def run(self, census: Callable[[], list[WorkerInfo]], now: int) -> bool:
        """Recover all claims of dead workers and of nobody. `now` is nanoseconds UTC, by the server's clock. True if
        something was found.

        The claims are listed before the leases: a claim is younger than its lease, so one whose lease is not in the
        later listing belongs to nobody (R7).
        """
        for n, (claim, holder) in list(self._begun.items()):
            self._try(claim, lambda c=claim, n=n, h=holder: self._settle_lost(c, n, now, h))  # type: ignore[misc]
        claims = self._spool.claims()
        _, spent, others = self._spool.temporary()
        leases = {info.id: info for info in census()}
        living = {info.id for info in leases.values() if info.alive} | {self._lease.worker}
        living |= self._hidden({claim.worker for claim in (*claims, *spent)} - leases.keys() - living)
        abandoned = [claim for claim in claims if claim.worker not in living]
        owners = {claim.worker for claim in abandoned} | {i.id for i in leases.values() if i.id not in living}
        stuck = {owner for owner in sorted(owners) if not self._kill_orphans(owner, abandoned, leases.get(owner))}
        self.is_stuck = bool(stuck)
        # What a client that crashed had done on an NFS server is done; and to ask for each job would take hours.
        crashed = not self._spool.mount.nfs and any(not leases[owner].mine for owner in owners if owner in leases)
        if crashed:
            set_doubles_aside(self._spool, self._say)
            reserve_again(self._spool)
        waiting = set(stuck)  # their leases stay until all of their jobs are recovered
        for claim in abandoned:
            if claim.worker not in stuck and not self._recover(claim, now, leases.get(claim.worker)):
                waiting.add(claim.worker)
        unfinished = [claim for claim in spent if claim.worker not in living]
        self._finish_spent(unfinished)
        if crashed:  # what lay in .tmp/ may have come to stand beside what its job was before
            set_doubles_aside(self._spool, self._say, {claim.id for claim in (*abandoned, *unfinished)})
        self._sweep(living, others)
        for owner in owners - waiting:
            if owner in leases:
                self._spool.remove_worker_file(owner + SUFFIX)
                if leases[owner].role == ROLE_WORKER:
                    self._say("warning", f"worker {owner} is dead: its jobs were recovered")
        return bool(owners)

    def _hidden(self, owners: Set[str]) -> set[str]:
        """Those whose lease no listing shows, and is there: on NFS 3 a listing may lack a name until its directory
        changes again (docs/filesystems.md). So a claim is nobody's only if its lease is not found by name either."""
        if not self._spool.network:
            return set()
        hidden = {owner for owner in owners if self._spool.exists(WORKERS, owner + SUFFIX)}
        if hidden and not self._spool.renew_listing(WORKERS):
            self._spool.show_change(WORKERS)
        return hidden

    def take_back(self, claim: Claim, now: int, own: WorkerInfo) -> None:
        """Take over a claim of our own that we don't know of: the reply to its rename, or to a later one, was lost.
        Under a new number, as from somebody else: under its old name it could be settled twice (tests/model)."""
        self._say("warning", f"job {claim.id} was claimed without our knowing (a lost reply); it is recovered")
        self._recover(claim, now, own)

    def finish_own(self, known: Set[str]) -> None:
        """Bring records of our own to their end whose settle was refused by mistake: their fence was passed, its reply
        was lost. `known` holds the claims (keys) that are being settled. The others are swept."""
        records, _, _ = self._spool.temporary()
        mine = [r for r in records if r.claim.worker == self._lease.worker and r.claim.key not in known]
        if mine:
            claims = {claim.stem for claim in self._spool.claims()}
            spent = self._spool.temporary()[1]
            for record in mine:
                if record.claim in spent:
                    self._spool.publish(record)
                    self._spool.sync(record.state)
                elif record.claim.stem not in claims | {claim.stem for claim in spent}:
                    self._spool.remove_temporary(record.name)

    def _kill_orphans(self, owner: str, claims: Iterable[Claim], info: WorkerInfo | None) -> bool:
        """Kill what `owner` left running on this host. False if something is still there."""
        if info is not None and not info.mine:
            return True  # its host looks after its own: it fences itself
        mark = f"@{owner}."
        logs = frozenset(self._log_of(claim) for claim in claims if claim.worker == owner) - {""}
        left = orphans.kill_all(lambda: orphans.find(lambda text: mark in text, self._spool.root, logs), KILL_LIMIT)
        if left:
            self._say("warning", f"processes {sorted(left)} of worker {owner} won't die; its jobs wait for them")
            return False
        held = self._held(owner, logs)
        if held and owner not in self._told:
            self._told.add(owner)
            self._say("warning", f"another user's processes of worker {owner} still write to {held}; its jobs wait for"
                      " them, or for a worker that may kill them")  # fmt: skip
        return not held

    def _held(self, owner: str, logs: Iterable[str]) -> str:
        """A log that processes of `owner`'s jobs still hold, in a moment and though they are killed; or ""."""
        deadline = time.monotonic() + CLOSING
        while held := sorted(log for log in logs if self._spool.is_log_held(log)):
            holders = orphans.holders(self._spool.root, held)
            if any(holders.values()):  # a worker that was taken for dead, and is not; what it had started is killed
                return ""
            for pid in holders:  # they hide in all other ways
                orphans.kill(pid, alone=True)
            if owner in self._told or time.monotonic() >= deadline:
                return held[0]
            time.sleep(0.01)
        return ""

    def _log_of(self, claim: Claim) -> str:
        try:
            job = self._read_claim(claim)
        except (BadJob, Unreadable):
            return ""
        return f"{claim.id}.{job.attempt}.log" if job else ""

    def _recover(self, claim: Claim, now: int, owner: WorkerInfo | None) -> bool:
        """False: one of its files cannot be read."""
        n = self._lease.next()
        self._begun[n] = (claim, owner)
        return self._try(claim, lambda: self._take_over(claim, n, now, owner))

    def _take_over(self, claim: Claim, n: int, now: int, owner: WorkerInfo | None) -> None:
        try:
            taken = self._spool.take_over(claim, self._lease.worker, n)
        except SpoolError as error:
            if not error.is_forbidden:  # it may have been done all the same; tried again soon
                raise
            del self._begun[n]
            raise _unreadable(error) from None
        if taken is None:
            del self._begun[n]
        else:
            self._settle_lost(claim, n, now, owner)

    def _try(self, claim: Claim, settle: Callable[[], None]) -> bool:
        """One file that cannot be read must not stop the recovery of the others, nor all workers with it. It is told
        once, and tried again at the next look."""
        try:
            settle()
        except Unreadable as error:
            if claim.stem not in self._told:
                self._told.add(claim.stem)
                self._say("warning", f"job {claim.id} cannot be recovered yet: {error}")
            return False
        self._told.discard(claim.stem)
        return True

    def _settle_lost(self, claim: Claim, n: int, now: int, owner: WorkerInfo | None) -> None:
        """Settle what `claim` has become in our hands. After a SpoolError it is called again, and goes on from what it
        finds; if the claim is not ours after all, nothing comes of it."""
        self._decide_lost(claim, claim.taken_over_by(self._lease.worker, n), now, owner)
        del self._begun[n]

    def _decide_lost(self, claim: Claim, mine: Claim, now: int, owner: WorkerInfo | None) -> None:
        if self._put_back(mine, now):
            return
        # Listed after the claim is ours: whoever wrote a record for this attempt has written it by now.
        records = [record for record in self._spool.temporary()[0] if record.claim.stem == mine.stem]
        found = [(record, data) for record in records if (data := self._read_record(record)) is not None]
        # What a worker has seen wins over what an earlier recoverer has concluded ("lost").
        for record, data in sorted(found, key=lambda pair: _is_lost(pair[1])):
            if settle_now(self._spool, Settlement(record._replace(claim=mine), data)):
                self._say("info", f"job {mine.id}: its worker died after it had ended; the outcome was kept")
            return
        try:
            job = self._read_claim(mine)
        except BadJob as error:
            if target := self._spool.reject(PROCESSING, mine.name, str(error)):
                self._say("warning", f"{mine.id} is no job and was set aside as dead/{target}: {error}")
            return
        if job is None:
            return
        log = f"{mine.id}.{job.attempt}.log"
        started = self._spool.has_log(log)
        if owner is not None and owner.mine and not started:
            # Claimed, but its log was never made, so its command was never started. Only where the kernel went on:
            # after a crash of the host the log may be missing because it wasn't synced, and the attempt must count.
            settle_now(self._spool, release(mine, job, now, counted=owner.role == ROLE_WORKER))
            return
        if started and (bound := self._max_log()) is not None:
            # Nobody else will: the attempt is over. First, because what it printed may be what has filled the disk.
            try:
                self._spool.cut_log(log, bound)
            except SpoolError as error:
                self._say("warning", str(error))
        outcome, decision = self._lost(mine, job, now)
        entry = {"attempt": job.attempt, "worker": claim.worker, "finished_at": iso(now), "reason": outcome.reason}
        data = jobs.settled(
            job, mine, mine.attempts, now, entry | ({"log": log} if started else {}), explain(outcome)
        )
        settle_now(self._spool, Settlement(record_for(mine, decision), data))
        if outcome.reason == CANCELLED:
            self._spool.remove_worker_file(f"{mine.id}.cancel")
        self._say("warning", f"job {mine.id}: attempt {job.attempt} was lost with its worker: {decision.state}")

    def _read_claim(self, claim: Claim) -> jobs.Job | None:
        """As the spool does. BadJob also if it is another user's: we shall never be able to (R12). Unreadable."""
        try:
            return self._spool.read_claim(claim)
        except SpoolError as error:
            if error.is_forbidden:
                raise BadJob("", str(error)) from None
            raise _unreadable(error) from None

    def _read_record(self, record: Record) -> bytes | None:
        try:
            return self._spool.read_record(record)
        except SpoolError as error:
            raise _unreadable(error) from None

    def _put_back(self, mine: Claim, now: int) -> bool:
        """Bring a job back to dead/ that a network file system took from there by repeating the rename of an old
        requeue: `dead/<id>.json` is the one name that comes back (R4). False if it is no such job.

        A requeue's claim (it counts no attempt) is later than its content was settled. Here the content was settled
        after it.
        """
        try:
            job = None if mine.attempts else self._read_claim(mine)
        except BadJob:
            return False
        if job is None or stamp(jobs.last_settled(job)) <= mine.not_before:
            return False
        attempts, why = job.body.get("attempts"), str(job.body.get("last_error") or "")
        data = jobs.settled(job, mine, attempts if isinstance(attempts, int) else 0, now, None, why,
                            job.body.get("exit_code"))  # fmt: skip
        settle_now(self._spool, Settlement(Record(mine, DEAD), data))
        self._say("warning", f"job {mine.id}: an old request to requeue it was repeated; it stays in dead/")
        return True

    def _lost(self, claim: Claim, job: jobs.Job, now: int) -> tuple[Outcome, Decision]:
        if self._spool.has_request(f"{claim.id}.cancel"):
            return Outcome(CANCELLED), Decision(DEAD)
        outcome = Outcome(LOST)
        return outcome, decide(self._policy(), job, claim.attempts, outcome, now, random.random)

    def _finish_spent(self, spent: list[Claim]) -> None:
        """Step 3 for those who passed the fence and then died: their own record goes to its destination. If it is not
        there any more, step 3 was done.

        The records are listed after the spent claims: a record is older than its fence, so one that is not in the
        later listing was published. One listing of both could miss a record that was made while it was read.
        """
        by_claim = {record.claim: record for record in self._spool.temporary()[0]} if spent else {}
        for claim in spent:
            record = by_claim.get(claim)
            if record is not None and self._spool.publish(record):
                self._spool.sync(record.state)
                self._say("info", f"job {claim.id}: finished what its dead worker had begun ({record.state})")
            self._spool.remove_temporary(claim.spent)

    def _sweep(self, living: set[str], others: list[str]) -> None:
        """Remove what nobody needs: records of the dead whose attempt has no claim and no spent claim any more, their
        recycled files, drafts of enqueuers who died, requests to workers that are gone.

        The records are listed first and the claims after: an attempt whose claim is gone in the later listing was
        settled, and its name never comes back (R4).
        """
        records = [r for r in self._spool.temporary()[0] if r.claim.worker not in living]
        if records:
            stems = {c.stem for c in self._spool.temporary()[1]} | {c.stem for c in self._spool.claims()}
            stems |= {c.stem for c in self._spool.temporary()[1]}
            for record in records:
                if record.claim.stem not in stems:
                    self._spool.remove_temporary(record.name)
        for name in others:
            owner, _, kind = name.partition("=")
            if kind == "spare":
                if owner.rpartition(".")[0] not in living:
                    self._spool.remove_temporary(name)
            elif self._spool.draft_age(name) > DRAFT_AGE:
                self._spool.remove_temporary(name)
        for name in self._spool.names(WORKERS):
            target, _, kind = name.rpartition(".")
            # A worker that was taken for dead, and is not, obeys it when it comes back.
            if kind == "stop" and not self._spool.exists(WORKERS, target + SUFFIX):
                if self._spool.request_age(name) > DRAFT_AGE:
                    self._spool.remove_worker_file(name)
            elif kind == "cancel":
                entry = self._spool.find(target)
                if entry is None or entry.state in TERMINAL:
                    self._spool.remove_worker_file(name)


def _unreadable(error: SpoolError) -> SpoolError:
    """The error for one file, if it is that."""
    return Unreadable(str(error), path=error.path, errno=error.errno) if error.is_of_one_file else error


def _is_lost(data: bytes) -> bool:
    """Whether a record says that its attempt was lost."""
    history = jobs.parse(data, jobs.LARGEST_RECORD).history
    return bool(history) and history[-1].get("reason") == LOST


def record_for(claim: Claim, decision: Decision) -> Record:
    """The record's name for a decision."""
    if decision.not_before is None:
        return Record(claim, decision.state)
    return Record(claim, decision.state, due(claim, decision.not_before), claim.attempts)


def due(claim: Claim, when: int) -> str:
    """The stamp of a job that waits again until `when` (nanoseconds UTC): another one than it had, so that no name is
    used twice (R4). It need not be later: if the clock was ahead, and has been set right, nobody should wait until the
    wrong time."""
    moment = stamp(when)
    return moment if moment != claim.not_before else next_stamp(moment)


def release(
    claim: Claim, job: jobs.Job, now: int, entry: Mapping[str, object] | None = None, *, counted: bool = True
) -> Settlement:
    """The settlement that gives a claim back: to pending/, in its old place in the queue, its attempt not counted
    (`counted`: whether the claim had counted one)."""
    attempts = max(claim.attempts - counted, 0)
    record = Record(claim, PENDING, next_stamp(claim.not_before), attempts)
    return Settlement(record, jobs.settled(job, claim, attempts, now, entry, str(job.body.get("last_error") or "")))


def settle_now(spool: Spool, settlement: Settlement) -> bool:
    """Settle one claim and leave nothing behind. False: the lease was lost."""
    spares: list[str] = []
    spool.settle([settlement], spares)
    for name in spares:
        spool.remove_temporary(name)
    return settlement.step == Settlement.PUBLISHED


def set_doubles_aside(
    spool: Spool, say: Callable[[str, str], None], recovered: Set[str] = frozenset(), *, copied: bool = False
) -> int:
    """After a host has crashed, some file systems show a renamed file in both places (btrfs), or a removed one again.
    The later one stays (R13), the other goes to dead/ as .rejected. How many were set aside. `recovered`: jobs that
    have just been recovered, which may wait in pending/ twice."""
    aside = 0
    for loser, winner in doubles(spool, recovered, copied=copied):
        reason = f"job {loser.id} lay in two places after a crash; {winner.state}/{winner.name} was kept"
        if spool.reject(loser.state, loser.name, reason):
            say("warning", reason)
            aside += 1
    return aside


def doubles(
    spool: Spool, recovered: Set[str] = frozenset(), *, copied: bool = False
) -> list[tuple[Entry, Entry]]:
    """The files of jobs that lie in two places: the earlier one, and the one that wins. `copied`: it may be a copy of a
    spool that was in use, where a job may also lie in pending/ twice; to see that takes 100 bytes for each.

    Every move of a job goes through processing/, so one of two lies there, or waits for a retry, or has ended; or
    recovery has just brought it to where it is.
    """
    found: dict[Entry, Entry] = {}
    groups: dict[str, list[Entry]] = {job_id: [] for job_id in recovered}
    for entry in spool.entries([PROCESSING, FAILED]):
        groups.setdefault(entry.id, []).append(entry)
    if copied:
        waiting: set[str] = set()
        for entry in spool.entries([PENDING]):
            if entry.id in waiting:
                groups.setdefault(entry.id, [])
            elif entry.id:
                waiting.add(entry.id)
    for entry in spool.entries([PENDING]):  # a million that only wait cost no memory
        if entry.id in groups or (entry.id and any(spool.has_ended(entry.id, state) for state in TERMINAL)):
            groups.setdefault(entry.id, []).append(entry)
    for entry in spool.entries([DEAD]):  # requeued, and completed then
        if spool.has_ended(entry.id, COMPLETED):
            groups.setdefault(entry.id, [])
    for job_id, rivals in groups.items():
        rivals += [Entry(s, job_id + SUFFIX, job_id) for s in TERMINAL if spool.has_ended(job_id, s)]
        if len(rivals) > 1:
            winner = _latest(spool, rivals)
            found.update((loser, winner) for loser in rivals if loser != winner)
    # A job that moved while it was looked for is in one place now.
    return [pair for pair in found.items() if all(spool.exists(entry.state, entry.name) for entry in pair)]


def _latest(spool: Spool, rivals: list[Entry]) -> Entry:
    """The latest of several files of one id: the one whose history has gone further, then what was written last. Of one
    content, the higher attempt wins, then terminal over processing over waiting (R13). Attempts alone don't tell: a
    requeued job starts again at 0, and a retry that waits has as many as the claim that it comes from. Nor does the
    clock: it may have been set back (R11)."""
    bodies: dict[Entry, dict[str, Any]] = {}
    attempts_made: dict[Entry, int] = {}  # over all requeues
    for rival in rivals:
        try:
            job = spool.load(rival)
        except BadJob:
            continue
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            continue
        if job is not None and job.id in (None, rival.id):  # a file that was recycled holds another job's record
            bodies[rival], attempts_made[rival] = job.body, job.attempt
    one_life = len({str(body.get("created_at")) for body in bodies.values()}) == 1

    def rank(rival: Entry) -> tuple[bool, int, str, tuple[int, int]]:
        made = attempts_made.get(rival, 0) if one_life else 0
        body = bodies.get(rival, {})
        attempts = body.get("attempts", 0) if rival.state in TERMINAL else rival.attempts
        written = body.get("updated_at") or ("" if one_life else body.get("created_at")) or ""
        return rival in bodies, made, str(written), strength(rival.state, attempts if isinstance(attempts, int) else -1)

    return max(rivals, key=rank)


def reserve_again(spool: Spool) -> None:
    """After a host has crashed: an id that a dropped file chose may have lost its reservation, which isn't synced."""
    for entry in spool.entries([PENDING, FAILED, PROCESSING]):
        if entry.id and not looks_generated(entry.id):
            spool.reserve_again(entry.id)
