"""The spool: what may be done to jobs that are files, and in which order of calls.

    .id  config.toml  pending/ processing/ completed/ failed/ dead/  logs/ workers/  .tmp/ .ids/

Owns the rules R1 to R6 of docs/internals.md, where the state table stands: a job is one file, its state is the
directory it lies in, each change of state is one rename, and a settle passes a fence. Never decides what runs, when,
or whether somebody is alive; takes no lock on the way of a job; overwrites no file that somebody else can see.

When things go wrong: a lost race is False or None. A file that is no job is BadJob, and `reject` sets it aside in
dead/ with its bytes. A broken environment is SpoolError with path and errno. Every path that fails leaves the job
where it was, or under a name that recovery (recover.py) finishes.

Built on disk.py, which makes each system call. It is long because the rules that hold a job together should stand in
one place; it reads in the order of a job's life.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from queuectl.core import job as jobs
from queuectl.core.names import (
    LONGEST_ID_WITH_NEEDS,
    SUFFIX,
    Claim,
    Record,
    Waiting,
    dropped_name,
    is_id,
    is_ignored,
    is_met,
    is_taken,
    parse_claim,
    parse_record,
    parse_spent,
    parse_terminal,
    parse_waiting,
    taken_name,
)
from queuectl.core.states import DEAD, FAILED, PENDING, PROCESSING, STATES, TERMINAL
from queuectl.core.times import next_stamp, stamp
from queuectl.disk import ALPHABET, ANEW, IDS, LOGS, NEW, TMP, WORKERS, Disk, base32, locate, token
from queuectl.errors import BadJob, IdTaken, SpoolError

BATCH = 1000  # jobs written between two syncs of a batch: 18,000/s against 4,500/s with a sync for each
REJECTED = ".rejected"  # ends the name of a file that was set aside in dead/ because it is no job
DRAFT_AGE = 3600.0  # seconds after which a file that somebody was writing in .tmp/ is nobody's
ABANDONED_ID = 60.0  # seconds after which an id that was reserved, but never used, may be taken
LONGEST_LINE = 4096  # bytes at the start of a kept tail in which a line's end is looked for
CUT_ROUNDS = 4  # how often a cut begins anew because a job prints faster than its output is copied
SPARE = "=spare"  # how the name of a file ends that nobody but its worker has ever had open
MOST_LOGS = 1000  # logs of one job that are removed by name; if there may be more, logs/ is listed



class Entry(NamedTuple):
    """One job as a listing shows it, read from its name alone. Terminal names say only the id."""

    state: str
    name: str
    id: str
    not_before: str = ""
    priority: int = 0
    attempts: int = 0
    worker: str = ""
    needs: str = ""


class Settlement:
    """One claim on its way through a settle: the record's name and bytes, and how far it has come.

    `step` goes NEW, BESIDE (written, not synced), WRITTEN, FENCED, PUBLISHED; or ends in REFUSED: the lease was lost,
    the outcome is dropped.
    """

    __slots__ = ("data", "record", "step")
    NEW, BESIDE, WRITTEN, FENCED, PUBLISHED, REFUSED = range(6)

    def __init__(self, record: Record, data: bytes) -> None:
        self.record = record
        self.data = data
        self.step = self.NEW


class Spool(Disk):
    """A spool directory.

    `path`: the directory; None finds it as the command line does (see `locate`). It is made if it isn't there,
    unless `create` is false. `durability`: "fsync" (an accepted job and a recorded outcome survive power loss) or
    "none" (they survive every crash of processes); None takes the setting of the spool's config.toml. `fs`: what
    executes the system calls, `os` unless a test lies. Raises SpoolError if the directory cannot be a spool.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: str | None = None,
        create: bool = True,
        fs: Any = os,
    ) -> None:
        root = os.path.abspath(os.fspath(path) if path is not None else locate(None, os.environ))
        super().__init__(root, durability=durability, create=create, fs=fs)

    def _make(self) -> None:
        from queuectl.tree import initialise  # `enqueue` into a spool that is there doesn't pay for it

        initialise(self.root, fs=self._fs)

    def path_of(self, entry: Entry) -> str:
        """Where the entry's file lies, or lay."""
        return self._in[entry.state] + entry.name

    def change_config(self, changes: Mapping[str, str | None]) -> None:
        """Set (text) or unset (None) settings in config.toml, under its lock. ConfigError, SpoolError."""
        from queuectl import config

        self.check_maker()

        def write(data: bytes) -> None:
            draft = self._write_draft(data)
            try:
                self._sync_file(draft)
                self._fs.rename(draft, self.config_path)
            except OSError as error:
                if self._config() != data:  # else the reply to the rename was lost
                    raise SpoolError.of(error, "change the settings", self.config_path) from None
            finally:
                self._remove(draft)
            self._sync_directory(self.root)

        config.change(self.config_path, changes, write, self._mode)

    def _config(self) -> bytes:
        try:
            with open(self.config_path, "rb") as file:
                return file.read()
        except OSError:
            return b""

    # -- enqueue ----------------------------------------------------------------------------------------------

    def enqueue(self, command: str | None = None, **members: Any) -> str:
        """Accept one job and return its id.

        `command` is a line for /bin/sh; or give `argv=[...]`. Further members as in the job file: priority, run_at
        (ISO 8601 text), max_retries, timeout (seconds), cwd, env, id, ... When it returns, the job is kept (R2).
        Raises BadJob (with the member's name), IdTaken, SpoolError, or ConfigError if config.toml cannot be used.
        """
        if command is not None:
            members = {"command": command, **members}
        return self.enqueue_many([members])[0]

    def enqueue_many(self, given: Iterable[Mapping[str, Any] | jobs.Job]) -> list[str]:
        """Accept several jobs with one sync for all, and return their ids in order.

        All are checked before the first is written. If writing fails in the middle, what is already accepted stays;
        SpoolError. Raises BadJob, IdTaken, or ConfigError (as `enqueue`) before anything is accepted.
        """
        accepted = [item if isinstance(item, jobs.Job) else jobs.check(item) for item in given]
        if not accepted:
            return []
        self.check_maker()
        now = self.clock()
        planned: list[tuple[Waiting, bytes, bool]] = []
        for number, job in enumerate(accepted):
            # A microsecond apart, so that jobs of one batch run in their order.
            moment = now + number * 1000
            job_id = job.id or new_id(moment)
            name = Waiting(stamp(job.run_at or moment), job.priority, 0, job_id, job.needs)
            planned.append((name, jobs.submission(job, job_id, moment), job.id is not None))
        drafts: list[tuple[str, Waiting]] = []
        reserved: dict[str, str] = {}  # by id: the draft it is for
        until = time.monotonic() + ABANDONED_ID / 2
        try:
            for name, data, chosen in planned:
                draft = self._write_draft(data)
                drafts.append((draft, name))
                if chosen:
                    self._reserve(name.id, os.path.basename(draft))
                    reserved[name.id] = draft
            self._sync_files([draft for draft, _ in drafts])
            if reserved:
                self.sync(IDS)  # or a power cut would free the id of an accepted job
            pending = self._in[PENDING]
            for draft, name in drafts:
                if reserved and time.monotonic() >= until:  # they were many, or this process was stopped
                    until = time.monotonic() + ABANDONED_ID / 2
                    self._confirm(reserved)
                # A worker may have claimed it already, if the reply to the rename was lost: then it is accepted.
                if not self._move(draft, pending + name.name):
                    if name.id in reserved and self._owner_of(name.id) not in ("", os.path.basename(draft)):
                        raise _given_away(name.id, draft)
                    if self.find(name.id) is None:
                        raise SpoolError(f"Could not accept the job: {draft} disappeared. Is the spool being removed?",
                                         path=draft, errno=errno.ENOENT)
                reserved.pop(name.id, None)
            self.sync(PENDING)
        except BaseException:
            # An id stays reserved if its draft has gone: the rename was done, though it was reported as failed.
            gone = {draft for draft, _ in drafts if not self._remove(draft)}
            for job_id, draft in reserved.items():
                if draft not in gone and self._owner_of(job_id) == os.path.basename(draft):
                    self._remove(self._in[IDS] + job_id)
            raise
        return [name.id for _, name in drafts]

    def _reserve(self, job_id: str, owner: str) -> None:
        """Take an id until its job is pruned, on all hosts: create .ids/<id> exclusively. It is a symbolic link so that
        whose it is is written in the same call. `owner` is the name of the file that will be the job. Raises
        IdTaken."""
        path = self._in[IDS] + job_id
        for last_try in (False, False, True):
            try:
                self._fs.symlink(owner, path)
                break
            except FileExistsError:
                theirs = self._owner_of(job_id)
                if theirs == owner:
                    return  # a network file system repeated our request, or we died after it
                if not theirs and not last_try and not self._exists(path):
                    continue  # its job has just been pruned
                if last_try or not self.free_abandoned(job_id, by_file=owner.startswith("adopt:")):
                    raise IdTaken(job_id) from None
            except OSError as error:
                raise SpoolError.of(error, "reserve the id", path) from None
        # A generated id has no reservation, so the jobs themselves are asked too.
        if any(self._exists(self._in[state] + job_id + SUFFIX) for state in TERMINAL) or (
            looks_generated(job_id) and self.find(job_id)
        ):
            self._remove(path)
            raise IdTaken(job_id)

    def _confirm(self, reserved: Mapping[str, str]) -> None:
        """Make drafts young again, so that nobody takes the ids that are reserved for them for abandoned. `reserved`
        says by id which draft it is for. SpoolError if somebody has done so already."""
        with self._ids_locked():  # nobody is between finding that an id is free and freeing it
            for job_id, draft in reserved.items():
                if self._owner_of(job_id) != os.path.basename(draft):
                    raise _given_away(job_id, draft)
                try:
                    self._fs.utime(draft)
                except OSError as error:
                    raise SpoolError.of(error, "accept the job", draft) from None

    def _owner_of(self, job_id: str) -> str:
        try:
            return str(self._fs.readlink(self._in[IDS] + job_id))
        except OSError:
            return ""

    def free_abandoned(self, job_id: str, *, by_file: bool = False) -> bool:
        """Free an id that was reserved by somebody who died before publishing the job, or whose job was taken out of
        the spool by hand (`mv dead/X.json pending/`). False if it is in use."""
        if not self.is_abandoned(job_id, by_file=by_file):
            return False
        return self._free_id(
            job_id, lambda: self.is_abandoned(job_id, by_file=by_file) and self._is_fenced_off(job_id)
        )

    def _is_fenced_off(self, job_id: str) -> bool:
        """Make sure that whoever has reserved an id cannot publish its job any more: he may only have been stopped, or
        his machine suspended. Without its draft his rename fails. False if it came first."""
        owner = self._owner_of(job_id)
        if owner.endswith("=draft") and "/" not in owner:
            self._remove(self._in[TMP] + owner)
        return self.find(job_id) is None

    def _free_id(self, job_id: str, free: Callable[[], bool]) -> bool:
        """Remove a reservation if it is `free`. Two who find so must not both remove it: the second would remove the
        first one's new reservation. Rare, so a lock will do (R10)."""
        self.check_maker()  # the lock's file would be root's
        with self._ids_locked():
            reserved = self._in[IDS] + job_id
            return not self._is_there(reserved) or (free() and self._remove(reserved))

    @contextmanager
    def _ids_locked(self) -> Iterator[None]:
        """Nobody else frees an id meanwhile. SpoolError."""
        from filelock import FileLock

        path = os.path.join(self.root, ".ids.lock")
        try:
            with FileLock(path, timeout=30, mode=self._mode, fallback_to_soft=False):
                self._look_again(self._in[IDS])  # what a cache says of an id is too old to act on
                yield
        except OSError as error:
            raise SpoolError.of(error, "lock the ids", path) from None

    def reserve_again(self, job_id: str) -> None:
        """Reserve the id of a job that is there. SpoolError."""
        try:
            self._fs.symlink("recovered", self._in[IDS] + job_id)
        except FileExistsError:
            pass
        except OSError as error:
            raise SpoolError.of(error, "reserve the id", self._in[IDS] + job_id) from None

    def is_abandoned(self, job_id: str, *, by_file: bool = False) -> bool:
        """Whether an id is reserved and neither a job nor somebody who is about to publish one has it; nor a file that
        was dropped, or moved back by hand, and waits to be adopted, unless it is asked for `by_file` itself."""
        # The owner's file first, then the jobs: it goes from one to the other by one rename.
        owner = self._owner_of(job_id)
        if not owner:  # it is free just now, or cannot be read
            return False
        if owner.startswith("adopt:"):
            _, _, name = owner.partition("/")
            busy = self._adoption(name) == owner
        else:
            draft = self._in[TMP] + owner
            busy = self._exists(draft) and self._age(draft) < ABANDONED_ID
        return not busy and self.find(job_id) is None and (by_file or self.find_dropped(job_id) is None)

    def _adoption(self, name: str) -> str:
        """What an id's reservation says while the file pending/<name> is being adopted: it tells two files apart
        that were dropped under one name."""
        inode, size, modified = self.signature(name) or (0, 0, 0)
        return f"adopt:{inode}.{size}.{modified}/{name}"

    # -- adopt ------------------------------------------------------------------------------------------------

    def adopt(self, name: str, now: int) -> Entry | None:
        """Make a foreign file in pending/ a job: read and check it, rename it to a name that nobody else gives, reserve
        its id, rename it to its canonical name.

        The first rename is there because whoever has dropped a file may drop the next one under its name as soon as it
        has gone, or replace it: then what is renamed is not what was read.

        `now` is nanoseconds UTC: when it may run unless it says otherwise. None if it is gone. Raises BadJob if it
        is not (or not yet) a job; the caller decides when to `reject` it. Raises IdTaken, whose `file` is the name in
        pending/ that it has then.
        """
        pending = self._in[PENDING]
        seen = self.signature(name)
        data = self.read(pending + name, jobs.LARGEST_FILE)
        if data is None:
            return None
        job = jobs.parse(data)
        if not is_taken(name):
            taken = self._take(name)
            if taken is None:
                return None
            if self.signature(taken) != seen:
                return self.adopt(taken, now)
            name = taken
        this = self._adoption(name)
        job_id = job.id
        if job_id is None:
            stem = dropped_name(name).removesuffix(SUFFIX)
            job_id = new_id(now)
            room = min(60, LONGEST_ID_WITH_NEEDS - len(job_id) - 1 - len(job.needs))
            if is_id(stem) and len(stem) <= room:
                job_id += f"-{stem}"
        else:
            try:
                self._reserve(job_id, this)
            except IdTaken as error:
                if self._adoption(name) != this:
                    return None  # by another worker, which has just adopted this very file
                error.file = name
                raise
        moment = job.run_at or now
        if jobs.last_settled(job):  # somebody has moved an old job here: it had its name of then once already (R4)
            moment = max(moment, now)
        waiting = Waiting(stamp(moment), job.priority, 0, job_id, job.needs)
        if self._move(pending + name, pending + waiting.name):
            return entry_of(PENDING, waiting.name)
        return None

    def _take(self, name: str) -> str | None:
        """Move a dropped file to a name that nobody else gives; that name, or None if it is gone."""
        taken = taken_name(name, token())
        return taken if self._move(self._in[PENDING] + name, self._in[PENDING] + taken) else None

    def signature(self, name: str) -> tuple[int, int, int] | None:
        """Inode, size and mtime of a file in pending/: while they change, somebody is writing. None if it is gone."""
        try:
            found = self._fs.lstat(self._in[PENDING] + name)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def is_directory(self, name: str, state: str = PENDING) -> bool:
        """Whether a name in pending/ (or another state) is a directory: those are left alone."""
        try:
            return stat.S_ISDIR(self._fs.lstat(self._in[state] + name).st_mode)
        except OSError:
            return False

    def reject(
        self, state: str, name: str, reason: str, seen: tuple[int, int, int] | None = None
    ) -> str | None:
        """Set a file aside in dead/ as <name>.rejected, its bytes untouched, the reason beside it (R12).

        Returns the new name, or None if somebody else had moved it; or if it is not the file in pending/ that had the
        signature `seen`, but one that was dropped under its name since: then it stays there, and a scan finds it. The
        reason is created exclusively and first: it reserves the name, so that nothing is ever renamed over an earlier
        rejected file. SpoolError.
        """
        if seen and not is_taken(name):
            taken = self._take(name)
            if taken is None or self.signature(taken) != seen:
                return None
            name = taken
        base = os.fsencode(dropped_name(name))[:200].decode("utf-8", "surrogateescape")
        dead, number = self._in[DEAD], 0
        while True:
            number += 1
            target = f"{base}{REJECTED}" if number == 1 else f"{base}.{number}{REJECTED}"
            if self._exists(dead + target):
                continue  # somebody has removed its reason
            try:
                self._write_new(dead + target + ".reason", reason.encode("utf-8", "replace") + b"\n")
                break
            except FileExistsError:
                continue
        try:
            if self._move(self._in[state] + name, dead + target):
                self.sync(DEAD)
                return target
        finally:
            if not self._exists(dead + target):
                self._remove(dead + target + ".reason")
        return None

    def rejected(self) -> Iterator[tuple[str, str]]:
        """The files set aside in dead/, and why."""
        for name in sorted(self.names(DEAD)):
            if name.endswith(REJECTED):
                yield name, self.reason_of(name)

    def reason_of(self, rejected: str) -> str:
        """Why a file was set aside in dead/; "" if that cannot be read."""
        try:
            return (self.read(self._in[DEAD] + rejected + ".reason") or b"").decode("utf-8", "replace").strip()
        except (BadJob, SpoolError):
            return ""

    def find_rejected(self, name: str) -> str | None:
        """The file in dead/ that was dropped under this name, with or without ".json", and set aside."""
        for aside in (f"{name}{REJECTED}", f"{name}{SUFFIX}{REJECTED}", name):
            if aside.endswith(REJECTED) and "/" not in aside and self._is_there(self._in[DEAD] + aside):
                return aside
        return None

    # -- claim ------------------------------------------------------------------------------------------------

    def claim(self, entry: Entry, worker: str, n: int, *, counted: bool = True) -> Claim | None:
        """Take a waiting or dead job: one rename, to a name that only this worker uses (R3). None: another won.

        The worker must hold its lease already. `counted` false is for a claim that starts no attempt (cancel,
        requeue).
        """
        not_before = entry.not_before or stamp(self.clock())
        waiting = Waiting(not_before, entry.priority, entry.attempts, entry.id, entry.needs)
        claim = waiting.claimed_by(worker, n)
        if not counted:
            claim = claim._replace(attempts=entry.attempts)
        if self._move(self._in[entry.state] + entry.name, self._in[PROCESSING] + claim.name):
            return claim
        return None

    def take_over(self, claim: Claim, worker: str, n: int) -> Claim | None:
        """Take a dead worker's claim: the same rename (R7). None: another recoverer won."""
        mine = claim.taken_over_by(worker, n)
        if self._move(self._in[PROCESSING] + claim.name, self._in[PROCESSING] + mine.name):
            return mine
        return None

    def give_back_unread(self, claim: Claim) -> None:
        """Give a claim back whose content cannot be read now, in its old place and uncounted. SpoolError."""
        waiting = Waiting(next_stamp(claim.not_before), claim.priority, max(claim.attempts - 1, 0), claim.id,
                          claim.needs)  # fmt: skip
        self._move(self._in[PROCESSING] + claim.name, self._in[PENDING] + waiting.name)

    def read_claim(self, claim: Claim) -> jobs.Job | None:
        """The job that a claim holds. None if the claim is gone (the lease was lost). Raises BadJob."""
        data = self.read(self._in[PROCESSING] + claim.name)
        if data is None:
            return None
        job = jobs.parse(data, jobs.LARGEST_RECORD)
        if job.id is not None and job.id != claim.id:
            raise BadJob("id", f"the file's name says {claim.id}, its content {job.id[:100]}; let both say the same")
        if job.needs and not is_met(job.needs, frozenset(claim.needs.split("+"))):
            raise BadJob("needs", f"its content needs {job.needs}, which the file's name doesn't say; drop it under a"
                         " name of your own")
        return job

    # -- settle -----------------------------------------------------------------------------------------------

    def settle(self, batch: list[Settlement], spares: list[str]) -> None:
        """Settle claims by R6, with one sync of each kind for all of them; each one's `step` says how it went.

        `spares` holds names in .tmp/ of files that belong to the caller alone. Records are written into them, and
        the spent claims are added to them: creating a file shortly after unlinking one costs 1.4 to 2.4 ms on ext4
        instead of 0.03. Raises SpoolError; calling it again with the same batch goes on where it stopped, and
        repeats no step. A worker calls the four parts itself: the syncs wait for the disk, the others don't.
        """
        self.write_records(batch, spares)
        self.sync_records(batch)
        self.publish_records(batch, spares)
        self.sync_targets({one.record.state for one in batch if one.step == Settlement.PUBLISHED})

    def write_records(self, batch: list[Settlement], spares: list[str]) -> None:
        """Step 1: the new records, beside. Each gets its name when it is complete."""
        for one in batch:
            if one.step == Settlement.NEW:
                self._write_record(one.record, one.data, spares)
                one.step = Settlement.BESIDE

    def sync_records(self, batch: list[Settlement]) -> None:
        """The end of step 1: the records are on the disk. After a failure they are written anew (see `sync`)."""
        beside = [one for one in batch if one.step == Settlement.BESIDE]
        try:
            self._sync_files([self._in[TMP] + one.record.name for one in beside])
            self.sync(TMP)
        except SpoolError:
            for one in beside:
                one.step = Settlement.NEW
            raise
        for one in beside:
            one.step = Settlement.WRITTEN

    def publish_records(self, batch: list[Settlement], spares: list[str]) -> None:
        """Steps 2 to 4: the fence, the destination, and the spent claim becomes a spare."""
        for one in batch:
            record = one.record
            if one.step == Settlement.WRITTEN:
                ours = self._move(self._in[PROCESSING] + record.claim.name, self._in[TMP] + record.claim.spent)
                if not ours:
                    self._check_before_refusal(batch)
                one.step = Settlement.FENCED if ours else Settlement.REFUSED
            if one.step == Settlement.FENCED:
                self.publish(record)
                one.step = Settlement.PUBLISHED
                if self.network:
                    self._remove(self._in[TMP] + record.claim.spent)
                else:
                    spares.append(record.claim.spent)
            # The record of a refused one stays until it is swept: if the refusal was a lie (the fence was passed, its
            # reply lost, and the look too early), it is all that is left of the job.

    def _check_before_refusal(self, batch: list[Settlement]) -> None:
        """In another spool at this one's place (an empty mount point that somebody has enqueued to) no claim is there,
        and nobody has lost his. What was written there as records is written anew. SpoolError."""
        try:
            self.check_identity()
        except SpoolError:
            for one in batch:
                if one.step in (Settlement.BESIDE, Settlement.WRITTEN):
                    one.step = Settlement.NEW
            raise

    def sync_targets(self, states: Iterable[str]) -> None:
        """The end of step 3: the destinations are on the disk."""
        for state in states:
            self.sync(state)

    def settling(self) -> list[Record]:
        """The records of jobs that are behind the fence of a settle, and not yet where they go: in no state."""
        records, spent, _ = self.temporary()
        behind = set(spent)
        return [record for record in records if record.claim in behind]

    def publish(self, record: Record) -> bool:
        """Step 3 of a settle: the record goes to its destination. False: a recoverer thought its owner dead, and
        has done this step. SpoolError if that is not certain: a listing, which no cache falsifies, shows it still."""
        if self._move(self._in[TMP] + record.name, self._in[record.state] + record.target):
            return True
        if record.name in self.names(TMP):
            path = self._in[TMP] + record.name
            raise SpoolError(f"Could not settle: {path}: it is there, but cannot be moved. It is tried again.",
                             path=path, errno=errno.ESTALE)  # fmt: skip
        self.check_identity()
        return False

    def _write_record(self, record: Record, data: bytes, spares: list[str]) -> None:
        tmp = self._in[TMP]
        if self.network:
            # Nobody knows who on another host has a spent claim open, so none is recycled, and spares are for a full
            # disk. A record that is cut off is none (`read_record`): it needs no other name first.
            try:
                self._write_new(tmp + record.name, data, ANEW)
                return
            except SpoolError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spares:
                    raise
        while spares:
            spare = tmp + spares[-1]
            if self._overwrite(spare, data) and self._move(spare, tmp + record.name):
                spares.pop()
                return
            spares.pop()
            self._remove(spare)
        if not self._write_and_move(data, tmp + record.name):
            raise SpoolError(f"Could not settle: {tmp}{record.name} disappeared. Leave .tmp/ alone.", path=tmp,
                             errno=errno.ENOENT)

    def _overwrite(self, path: str, data: bytes) -> bool:
        """Fill a file that is ours alone. False if it is gone, has another name somewhere (a hard link), or may be open
        elsewhere: whoever dropped it as a job might write to it once more."""
        try:
            fd = self._fs.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP):
                return False
            raise SpoolError.of(error, "write the record", path) from None
        try:
            found = self._fs.fstat(fd)
            if not path.endswith(SPARE) and (found.st_nlink != 1 or not _is_open_here_only(fd)):
                return False
            self._write_all(fd, data)
            if found.st_size > len(data):
                self._fs.ftruncate(fd, len(data))
            self._sync_before_close(fd)
        except OSError as error:
            raise SpoolError.of(error, "write the record", path) from None
        finally:
            self._fs.close(fd)
        return True

    def make_spare(self, worker: str, number: int, size: int = 4096) -> str:
        """A file in .tmp/ with `size` bytes of room: with one in hand, a claim can be settled on a full disk."""
        name = f"{worker}.{number}{SPARE}"
        self._write_new(self._in[TMP] + name, b" " * size)
        return name

    # -- what recovery needs (recover.py) -----------------------------------------------------------------------

    def claims(self) -> list[Claim]:
        """All claims, of whomever."""
        return [claim for name in self.names(PROCESSING) if (claim := parse_claim(name))]

    def temporary(self) -> tuple[list[Record], list[Claim], list[str]]:
        """What lies in .tmp/: settled records, spent claims, and other names."""
        records, spent, others = [], [], []
        for name in self.names(TMP):
            if record := parse_record(name):
                records.append(record)
            elif claim := parse_spent(name):
                spent.append(claim)
            else:
                others.append(name)
        return records, spent, others

    def read_record(self, record: Record) -> bytes | None:
        """A record that somebody wrote, if it is whole and of that attempt; else None.

        After a power cut a name may be there without its content, or with what the recycled inode held before.
        """
        try:
            data = self.read(self._in[TMP] + record.name)
            job = jobs.parse(data, jobs.LARGEST_RECORD) if data is not None else None
        except BadJob:
            return None
        if job is None or job.id != record.claim.id:
            return None
        return data if str(job.body.get("claim")).partition("@")[0] == record.claim.stem else None

    def remove_temporary(self, name: str) -> None:
        """Remove a file from .tmp/. The caller knows by the rules in recover.py that nobody needs it."""
        self._remove(self._in[TMP] + name)

    def request_age(self, name: str) -> float:
        """Seconds since a request was dropped into workers/, by the clocks of the file system and of this host."""
        return self._age(self._in[WORKERS] + name)

    def draft_age(self, name: str) -> float:
        """Seconds since a file in .tmp/ was written, by the clocks of the file system and of this host."""
        return self._age(self._in[TMP] + name)

    # -- look -------------------------------------------------------------------------------------------------

    def entries(self, states: Iterable[str] = STATES) -> Iterator[Entry]:
        """The jobs in these states, in no order. A job that moves meanwhile may be seen twice or not at all."""
        for state in states:
            for name in self.scan(state):
                if entry := entry_of(state, name):
                    yield entry

    def counts(self) -> dict[str, int]:
        """How many jobs each state holds."""
        return {state: sum(1 for name in self.scan(state) if is_job_name(state, name)) for state in STATES}

    def find(self, job_id: str) -> Entry | None:
        """Where a job is, or None."""
        return self.find_all([job_id]).get(job_id)

    def find_all(self, job_ids: Iterable[str]) -> dict[str, Entry]:
        """Where these jobs are; who is in no directory is left out. One pass over pending/ serves all of them.

        It looks where a job goes, in that order: claimed, behind the fence of a settle (.tmp/), where that leads. So
        one that moves is met on its way, or there. If it was behind the fence, it looks again.
        """
        missing = {job_id for job_id in job_ids if is_id(job_id)}
        found: dict[str, Entry] = {}
        for _ in range(3):
            for state in (*TERMINAL, PENDING, FAILED, PROCESSING, TMP, FAILED, PENDING, *TERMINAL):
                if not missing:
                    return found
                if state == TMP:
                    records, spent, _ = self.temporary()
                    continue
                seen = self._ended(state, missing) if state in TERMINAL else self._moving(state, missing)
                found |= seen
                missing -= seen.keys()
            if not any(claim.id in missing for claim in spent):
                return found
        # Who settled it has died behind the fence, or its disk fails: recovery finishes that. It is in no directory.
        for claim in {record.claim for record in records if record.claim.id in missing} & set(spent):
            found[claim.id] = Entry(PROCESSING, claim.name, claim.id, claim.not_before, claim.priority, claim.attempts,
                                    claim.worker, claim.needs)  # fmt: skip
        return found

    def find_dropped(self, job_id: str) -> Entry | None:
        """The file in pending/ that asks for this id, and that no worker has adopted yet. Reads all that are not
        adopted, and looks again if one has moved meanwhile: it may be being adopted (or be the job now). SpoolError."""
        for _ in range(3):
            moved = False
            for entry in self.entries([PENDING]):
                if entry.id:
                    continue
                try:
                    job = self.load(entry)
                except BadJob:
                    continue
                except SpoolError as error:
                    if not error.is_of_one_file:
                        raise
                    continue
                if job is not None and job.id == job_id:
                    return entry
                moved = moved or job is None
            if not moved:
                break
        return None

    def _ended(self, state: str, job_ids: Iterable[str]) -> dict[str, Entry]:
        directory = self._in[state]
        self._look_again(directory)
        return {job_id: Entry(state, job_id + SUFFIX, job_id) for job_id in job_ids
                if self._is_there(directory + job_id + SUFFIX)}  # fmt: skip

    def _moving(self, state: str, job_ids: set[str]) -> dict[str, Entry]:
        found = {}
        for name in self.scan(state):
            # Cheap first: the id stands behind the last dot before the suffix, or before the @.
            if name[: name.find("@") if state == PROCESSING else -len(SUFFIX)].rpartition(".")[2] in job_ids:
                entry = entry_of(state, name)
                if entry is not None and entry.id in job_ids:
                    found[entry.id] = entry
        return found

    def ended(self, job_ids: Iterable[str]) -> dict[str, Entry]:
        """Those of these jobs that have ended. It lists nothing."""
        wanted = list(job_ids)
        return self._ended(TERMINAL[0], wanted) | self._ended(TERMINAL[1], wanted)

    def has_ended(self, job_id: str, state: str) -> bool:
        """Whether a job lies in that terminal state."""
        return self._exists(self._in[state] + job_id + SUFFIX)

    def load(self, entry: Entry) -> jobs.Job | None:
        """The job of an entry; None if it has moved on. Raises BadJob."""
        data = self.read(self.path_of(entry))
        return None if data is None else jobs.parse(data, jobs.LARGEST_RECORD)

    def modified(self, entry: Entry) -> float | None:
        """The mtime of a job's file, seconds since 1970; None if it is gone. SpoolError."""
        try:
            return float(self._fs.lstat(self.path_of(entry)).st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpoolError.of(error, "look at the job", self.path_of(entry)) from None

    # -- logs, leases, requests ---------------------------------------------------------------------------------

    def open_log(self, name: str) -> int:
        """A descriptor to append to a new logs/<name>. What lies there is of an earlier job of that id, whose file
        somebody has removed. It is removed, for a worker may still have it as a spare (`rename_log`); on a network file
        system, where an exclusive create takes more requests, it is emptied. SpoolError."""
        path = self._in[LOGS] + name
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if self.network:
                fd = self._create(path, flags | os.O_TRUNC)
            else:
                try:
                    fd = self._create(path, flags | os.O_EXCL)
                except FileExistsError:
                    self._fs.unlink(path)
                    fd = self._create(path, flags | os.O_EXCL)
            self._give_to_group(fd)
        except OSError as error:
            raise SpoolError.of(error, "open the log", path) from None
        if not self.network:
            _try_lock(fd)
        return fd

    def is_log_held(self, name: str) -> bool:
        """Whether a process still has this log as its output that may be another user's (sudo; a group's spool), whose
        environment nobody else may see: it has inherited the lock of the worker that opened it. Only a local file
        system tells; and a network one could make us wait for its locks."""
        if self.network:
            return False
        try:
            fd = self._fs.open(self._in[LOGS] + name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try_lock(fd, shared=True)
        finally:
            self._fs.close(fd)

    def rename_log(self, spare: str, fd: int, name: str) -> bool:
        """Give an empty log of the caller's, open as `fd`, the name of the next one: that of an attempt, which nobody
        else makes. False if the spare is gone: its job was pruned, and another of that id may have made a log of that
        name by now. SpoolError."""
        old, new = self._in[LOGS] + spare, self._in[LOGS] + name
        try:
            mine = self._fs.fstat(fd)
            if not mine.st_nlink or not self._move(old, new):
                return False
            if os.path.samestat(self._fs.stat(new), mine):
                return True
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # gone; on a network file system by another host
                return False
            raise SpoolError.of(error, "rename a log", old) from None
        self._move(new, old)  # it is that other job's: between the first look and the rename
        return False

    def remove_spare_log(self, name: str, fd: int) -> None:
        """Remove an empty log of the caller's, open as `fd`, unless its name is another's by now (see `rename_log`)."""
        path = self._in[LOGS] + name
        try:
            if os.path.samestat(self._fs.stat(path), self._fs.fstat(fd)):
                self._remove(path)
        except OSError:
            pass  # it is gone

    def remove_log(self, name: str) -> None:
        """Remove logs/<name>, if it is there. SpoolError."""
        self._remove(self._in[LOGS] + name)

    def cut_log(self, name: str, bound: int) -> bool:
        """Leave of a log of more than `bound` bytes its head, a mark, and its newest output (core/logs.py). False if it
        is no larger, or gone. SpoolError.

        Whoever appends is not held up. What it appends in the moment between the last copy and the truncation is left
        out too, uncounted.
        """
        from queuectl.core import logs  # `enqueue` doesn't pay for it

        path = self._in[LOGS] + name
        try:
            # Not the job's descriptor: with O_APPEND, pwrite appends wherever it is told to write.
            fd = self._fs.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                size = self._fs.fstat(fd).st_size
                if size <= bound:
                    return False
                try:
                    end, left_out = self._move_tail(fd, size, logs.tail(bound))
                    self._fs.pwrite(fd, logs.mark(left_out), logs.HEAD)
                    self._fs.ftruncate(fd, end)
                except OSError:  # a file system that copies on write, and is full: room comes first
                    self._fs.ftruncate(fd, logs.HEAD)
                    self._fs.pwrite(fd, logs.mark(size - logs.HEAD), logs.HEAD)
                return True
            finally:
                self._fs.close(fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SpoolError.of(error, "cut the log", path) from None

    def _move_tail(self, fd: int, size: int, tail: int) -> tuple[int, int]:
        """Copy the last `tail` bytes of a log to behind the mark, and what comes meanwhile. If that comes faster than
        it is copied, begin anew with what is the newest then, a few times. Where it ends there, and how many bytes are
        left out."""
        from queuectl.core import logs

        gone = logs.left_out(self._fs.pread(fd, logs.MARK, logs.HEAD))
        begin = logs.HEAD + logs.MARK
        for _ in range(CUT_ROUNDS):
            # What is read now lies behind all that an earlier round has written: a tail is a quarter of the bound.
            data = self._fs.pread(fd, tail, size - tail)
            line = data.find(b"\n", 0, LONGEST_LINE) + 1
            first = source = size - tail + line
            end, data = begin, data[line:]
            while data and end < begin + 2 * tail:
                written = self._fs.pwrite(fd, data, end)
                source, end = source + written, end + written
                data = self._fs.pread(fd, tail, source)
            size = self._fs.fstat(fd).st_size
            if not data:
                break
        return end, gone + first - (begin if gone else logs.HEAD) + max(0, size - source)

    def publish_lease(self, worker: str, data: bytes) -> int:
        """Create workers/<worker>.json and return a descriptor that is open for writing and has it locked.

        Whoever dies closes it, which the others see; the lock is gone with it. SpoolError.
        """
        from fcntl import LOCK_EX, LOCK_NB, flock

        self.check_maker()
        draft, path = self._draft_name(), f"{self._in[WORKERS]}{worker}{SUFFIX}"
        try:
            try:
                fd = self._create(draft, NEW & ~os.O_WRONLY | os.O_RDWR)
            except FileExistsError:  # a network file system repeated the request
                draft = self._draft_name()
                fd = self._create(draft, NEW & ~os.O_WRONLY | os.O_RDWR)
            try:
                self._give_to_group(fd)
                self._write_all(fd, data)
                flock(fd, LOCK_EX | LOCK_NB)
                if not self._move(draft, path):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                self.sync(WORKERS)
            except BaseException:
                self._fs.close(fd)
                self._remove(draft)
                self._remove(path)
                raise
        except OSError as error:
            raise SpoolError.of(error, "register in the spool", draft) from None
        return fd

    def rewrite_lease(self, fd: int, data: bytes) -> None:
        """Write over a lease of one's own, in one call, with as many bytes as it had. SpoolError."""
        try:
            self._fs.pwrite(fd, data, 0)
            if self.network:
                self._fs.fsync(fd)  # else other hosts would not see it
        except OSError as error:
            raise SpoolError.of(error, "write the lease", self._in[WORKERS]) from None

    def open_worker_file(self, name: str) -> int | None:
        """A descriptor to read a file of workers/; None if it is gone, or no file. Reading only: a descriptor that was
        open for writing would tell every worker on this host that somebody died when it is closed."""
        try:
            fd: int = self._fs.open(self._in[WORKERS] + name, self._to_read)
            regular = False
            try:
                regular = stat.S_ISREG(self._fs.fstat(fd).st_mode)
            finally:
                if not regular:
                    self._fs.close(fd)
            return fd if regular else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                return None
            raise SpoolError.of(error, "read a worker's file", self._in[WORKERS] + name) from None

    def remove_worker_file(self, name: str) -> None:
        """Remove a lease or a request from workers/, if it is there. SpoolError."""
        self._remove(self._in[WORKERS] + name)

    def put_request(self, name: str, data: bytes = b"{}\n") -> None:
        """Drop a request (`<worker>.stop`, `<id>.cancel`) into workers/, where every worker sees it.
        SpoolError."""
        self.check_maker()
        try:
            self._write_and_move(data, self._in[WORKERS] + name)
        except SpoolError as error:
            # The disk may be full of what the very job prints that is to be cancelled; that request says all by its
            # name, and a name may have room still.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not name.endswith(".cancel"):
                raise
            self._write_new(self._in[WORKERS] + name, b"", ANEW)

    def log_size(self, name: str) -> int:
        """The size of a log in bytes; -1 if there is none."""
        try:
            return int(self._fs.lstat(self._in[LOGS] + name).st_size)
        except OSError:
            return -1

    def has_request(self, name: str) -> bool:
        """Whether workers/<name> is there; what cannot be seen is not."""
        return self._exists(self._in[WORKERS] + name)

    def has_log(self, name: str) -> bool:
        """Whether logs/<name> is there; what cannot be seen is not."""
        return self._exists(self._in[LOGS] + name)

    # -- prune ------------------------------------------------------------------------------------------------

    def remove_job(self, entry: Entry) -> bool:
        """Remove a terminal job with its logs and its reserved id. False if it has moved. The job goes after its logs:
        what is left by a crash is a job that can be pruned again, or an id that its next user frees. SpoolError."""
        assert entry.state in TERMINAL
        try:
            job = self.load(entry)
            if job is None:
                return False
            after = job.attempt
        except BadJob:
            after = MOST_LOGS + 1
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            after = MOST_LOGS + 1
        logs: Iterable[str] = (f"{entry.id}.{attempt}.log" for attempt in range(1, after))
        if after > MOST_LOGS:
            logs = [name for name in self.scan(LOGS) if name.startswith(f"{entry.id}.")]
        for name in logs:
            self._remove(self._in[LOGS] + name)
        owner = self._owner_of(entry.id)
        # Who removes the file has the job. Its id is freed after that: somebody may just be requeueing it.
        if not self._unlink(self.path_of(entry)):
            return False
        self._remove(f"{self._in[WORKERS]}{entry.id}.cancel")  # one that came too late must not meet the id's next job
        if owner:
            self._free_id(entry.id, lambda: self._owner_of(entry.id) == owner)
        return True

    def remove_rejected(self, name: str) -> bool:
        """Remove a file that was set aside in dead/, with its reason."""
        assert name.endswith(REJECTED)
        gone = self._unlink(self._in[DEAD] + name)
        self._remove(self._in[DEAD] + name + ".reason")
        return gone

def _try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file, with all who inherit it; or, `shared`, see whether it is locked. False if somebody else has
    locked it; a file system without locks has no say."""
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

    try:
        flock(fd, (LOCK_SH if shared else LOCK_EX) | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _given_away(job_id: str, draft: str) -> SpoolError:
    return SpoolError(
        f"Could not accept the job: its id {job_id!r} was given to another one, because this took more than"
        f" {ABANDONED_ID:g} s. What was accepted before it stays.", path=draft, errno=errno.EEXIST,
    )  # fmt: skip


# -- names and ids --------------------------------------------------------------------------------------------------


def new_id(now: int) -> str:
    """A new job id: 11 letters of time (microseconds) and 7 of chance. It sorts by time and needs no coordination."""
    return base32(now // 1000, 11) + base32(int.from_bytes(os.urandom(5), "big") & ((1 << 35) - 1), 7)


def looks_generated(job_id: str) -> bool:
    """Whether an id could have been made by `new_id`, so that it may exist without a reservation."""
    return len(job_id) >= 18 and all(letter in ALPHABET for letter in job_id[:18]) and job_id[18:19] in ("", "-")


def entry_of(state: str, name: str) -> Entry | None:
    """What a name says of a job in that state; None if it is no job's name. A foreign file in pending/ is an entry
    whose id is empty."""
    if state in TERMINAL:
        job_id = parse_terminal(name)
        return Entry(state, name, job_id) if job_id else None
    if state == PROCESSING:
        claim = parse_claim(name)
        return Entry(state, name, claim.id, claim.not_before, claim.priority, claim.attempts,
                     claim.worker, claim.needs) if claim else None
    waiting = parse_waiting(name)
    if waiting:
        return Entry(state, name, waiting.id, waiting.not_before, waiting.priority, waiting.attempts,
                     needs=waiting.needs)
    return Entry(state, name, "") if state == PENDING and not is_ignored(name) else None


def is_job_name(state: str, name: str) -> bool:
    """Whether a name counts as a job of that state: cheap, for counting a million."""
    if name.startswith(".") or not name.endswith(SUFFIX):
        return False
    return state in (PENDING, *TERMINAL) or entry_of(state, name) is not None


def _is_open_here_only(fd: int) -> bool:
    """Whether nobody else has this file open (F_SETLEASE, fcntl(2)). False where the file system doesn't tell."""
    from fcntl import F_SETLEASE, F_UNLCK, F_WRLCK, fcntl

    try:
        fcntl(fd, F_SETLEASE, F_WRLCK)
        fcntl(fd, F_SETLEASE, F_UNLCK)
        return True
    except OSError:
        return False
