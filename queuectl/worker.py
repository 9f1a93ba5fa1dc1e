"""The worker: one process with N slots, on one spool.

Owns the loop. What one job goes through reads from top to bottom: the lookout brings its name into the window, a free
slot claims the best, the claim is synced and started, its end is noticed, and its outcome is settled. Each concern says
when it wants to be woken (`_next_turn`); between turns the process sleeps in the kernel.

Never decides about retries (core/backoff.py), names or states (spool.py), processes (runner.py), who is dead (lease.py)
or where to look (lookout.py).

When things go wrong: a bad file is set aside with a warning. A lost race is nothing. Trouble with the spool (full,
read-only, gone, another) stops new claims, is said once, and is tried again; running jobs go on, and their outcomes
wait. A lost lease kills the running jobs: somebody else has them. A bug ends the process; others recover its jobs.

It is long because the way of one job should be read in one place; what can stand alone is in modules of its own.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from typing import Any

from queuectl import config as settings
from queuectl import orphans
from queuectl.core import backoff
from queuectl.core import job as jobs
from queuectl.core.backoff import CANCELLED, LOST, STOPPED, Outcome, Policy, decide, explain
from queuectl.core.names import Claim, Record
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING, TERMINAL
from queuectl.core.times import SECOND, iso, say_duration, stamp, unstamp
from queuectl.disk import FEW_INODES
from queuectl.errors import OK, SPOOL, BadJob, ConfigError, SpoolError
from queuectl.heart import Heart
from queuectl.lease import ROLE_WORKER, Census, Lease, host
from queuectl.logsize import LogSizes, cut_abandoned
from queuectl.lookout import Lookout
from queuectl.recover import Recovery, record_for, release
from queuectl.runner import Attempt, Busy, Overdue, Runner, own_environment
from queuectl.settling import Settler, one_thread
from queuectl.spool import Entry, Settlement, Spool, entry_of
from queuectl.talk import Talk, plural, size

OBEYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
BURY_EVERY = 10.0  # seconds between two looks for zombies that long jobs have left to us
TROUBLE_PAUSE = 1.0  # seconds until what failed with the spool is tried again
AHEAD = 0.02  # seconds of work that may be claimed ahead of the slots ...
MOST_AHEAD = 8  # ... and no more jobs than that; they are given back ...
PATIENCE = 0.1  # ... when they have waited so many seconds: others may be free
LEFT_ALONE = 5.0  # seconds until a job whose file cannot be moved, or whose log cannot be made, may be tried again
MOST_PASSED_OVER = 8  # such jobs that one turn meets for the first time; if there are more, it is the directory
MOST_LEFT_ALONE = 10_000  # that are remembered, and not told of again
UNREAD = 8.0  # seconds after which a job that still cannot be read is set aside
FREE_DESCRIPTORS = 12  # for the lease, listings, records, logs of what has just ended; a few at once, in four threads
LINGER = 0.004  # seconds that outcomes of short jobs may wait to share their syncs
MOST_SPREAD = 64  # names among which one is chosen by chance after lost races; each that is skipped takes time
MOST_EVENTS = 64  # taken at once; the default allocates room for 1,023 at each call
EARLIEST, LATEST = 1_735_689_600 * SECOND, 4_102_444_800 * SECOND  # a clock before 2025 or in 2100 is a wrong one
_OF_ONE_JOB = (errno.EISDIR, errno.ELOOP)  # something else lies in the place of its log
# What others import when they need it must be there already when descriptors are short.
_NEEDED_LATER = ("datetime", "shutil", "tomllib")


def run(
    spool: Spool,
    *,
    count: int = 1,
    until_empty: bool = False,
    flags: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    say: Callable[[str], None] = print,
) -> int:
    """Work in the foreground until told to stop; the exit code. `say` is given whole lines for people."""
    worker = Worker(spool, count=count, until_empty=until_empty, flags=flags or {}, labels=labels, say=say)
    return worker.run()


class Worker:
    """One worker. `flags` are settings from the command line: they win over config.toml, now and when it changes."""

    def __init__(
        self, spool: Spool, *, count: int, until_empty: bool, flags: Mapping[str, Any], labels: tuple[str, ...],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._spool = spool
        self._slots = count
        self._until_empty = until_empty
        self._flags = flags
        self._labels = labels
        self._host = host()
        self._talk = Talk(say)
        self._say = self._talk.say
        self._config = settings.load(spool.config_path, os.environ, flags, lambda text: self._say("warning", text))
        self._talk.level = self._config.log_level
        spool.set_durability(self._config.durability)
        self._network = spool.network
        self._stop = 0  # 0 work, 1 drain, 2 stop now
        self._stop_at: float | None = None
        self._signals: deque[int] = deque()
        self._claimed: deque[tuple[Claim, jobs.Job]] = deque()  # synced, waiting for a slot
        self._syncing: deque[tuple[Claim, jobs.Job]] = deque()  # claimed, not synced yet
        self._sync: Future[None] | None = None
        self._ended: list[Attempt] = []
        self._settled: dict[str, Attempt | None] = {}  # by claim: what the settler has
        self._pace = 1.0  # seconds that an attempt took lately
        self._patient_until = 0.0  # for a slot, with what is claimed
        self._losses = 0  # lost races in a row
        self._left_alone: dict[str, float] = {}  # jobs that were passed over, and until when
        self._passed_over = 0  # in this turn
        self._unread: dict[str, float] = {}  # jobs that could not be read, and since when
        self._trouble_until: float | None = None
        self._bury_at = 0.0
        self._unwatched: set[Attempt] = set()  # running, and the kernel would not tell us of their end
        self.done = 0

    # -- the life of a worker -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop; the exit code. SpoolError if the spool cannot be used from the beginning."""
        self._spool.check_owner()
        for name in _NEEDED_LATER:
            import_module(name)
        self._lookout = Lookout(
            self._spool, network=self._network, poll_interval=self._config.poll_interval,
            labels=frozenset(self._labels), wall=self._now, say=self._say,
        )  # fmt: skip
        # Whoever started us may ignore it, and exec passes that on: then the kernel would tell nobody how a job ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # While this thread is in posix_spawn it blocks all signals, and the end of a child would wake another thread,
        # to ignore it. The threads get this mask from us; jobs don't (runner.py).
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        wakeup = self._lookout.wakeup
        self._poller = select.epoll()
        self._poller.register(wakeup.fileno(), select.EPOLLIN)
        self._catch_signals()
        self._runner = Runner(self._spool, own_environment(), self._say, lambda: self._heart.is_overdue())
        if not self._runner.is_at_home:
            self._say("warning", "the directory it was started in may not be entered; jobs without a cwd run in /")
        self._logs = LogSizes(self._spool, self._say)
        self._settler = Settler(self._spool, wakeup.poke)
        self._syncer = one_thread("sync")
        cut_abandoned(self._spool, Census(self._spool, self._config.stale_after), self._config.max_log)
        mode = self._lookout.watch()  # before anybody can see that we are here, and drop a file for us
        self._limit_slots()
        self._take_lease()
        # What is there now stays; what a job leaves behind is freed by reference counts. Without this the collector
        # takes a twentieth of the worker's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._check_clock()
        slots = plural(self._slots, "slot")
        self._say("info", f"worker {self._lease.worker} works on {self._spool.root}: {slots}, {mode}")
        try:
            while self._turn():
                self._sleep()
        finally:
            code = self._leave()
        return code

    def _limit_slots(self) -> None:
        """No more slots than there are descriptors for: without some that are free, no outcome could be recorded."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        slots = max(1, (most - len(os.listdir("/proc/self/fd")) - FREE_DESCRIPTORS) // 2)
        if most != resource.RLIM_INFINITY and slots < self._slots:
            self._say("warning", f"{plural(slots, 'slot')} instead of {self._slots:,}, for a job takes two descriptors:"
                                 f" raise `ulimit -n` ({most})")
            self._slots = slots
        self._runner.slots = self._slots

    def _turn(self) -> bool:
        """One round of all concerns. False when the worker has nothing left to do."""
        now = time.monotonic()
        if self._trouble_until is not None and now >= self._trouble_until:
            self._trouble_until = None
        self._obey()
        # Timeouts hold while the spool is away, and what has ended is settled even if looking for new work fails.
        for concern in (self._tend_running, self._take_work, self._finish_work):
            try:
                concern(now)
            except OSError as error:  # this process's own lack: descriptors, memory, processes
                self._in_trouble(SpoolError.of(error, "go on", error.filename or "the worker"), now)
            except SpoolError as error:
                self._in_trouble(error, now)
        if self._trouble_until is None and self._settler.problem is None:
            self._talk.problem("spool", "")
        self._talk.problem("settle", str(self._settler.problem or ""))
        try:
            return not self._finished()
        except SpoolError:
            return True

    def _tend_running(self, now: float) -> None:
        if self._stop == 1 and self._stop_at is not None and now >= self._stop_at:
            self._order_stop(now=True, why="stop-grace is over")
        self._runner.check_deadlines(now)
        if self._runner.running and now >= self._bury_at:
            self._bury_at = now + BURY_EVERY
            self._runner.bury_orphans()
        self._watch_again()
        self._logs.turn(now, self._runner.running.values(), self._config.max_log)

    def _take_work(self, now: float) -> None:
        self._passed_over = 0
        self._start()  # a slot that has just become free waits for nothing else
        self._lookout.take_hints(now)
        self._mind(now)
        if self._may_claim(now):
            self._claim()
        self._start()
        if self._claimed and now >= self._patient_until:  # claimed ahead, and all slots have long jobs
            self._release_all(self._claimed)
            self._pace = max(self._pace, PATIENCE)

    def _finish_work(self, now: float) -> None:
        self._end_attempts()
        self._refill()
        stuck = self._settler.problem is not None
        busy = self._pace < AHEAD and len(self._runner.running) > 0
        self._settler.turn(now, LINGER if busy else 0.0)
        if stuck and self._settler.problem is None:
            self._lookout.wakeup.poke()  # work may be taken again
        self._refill()
        self._note_settled()

    def _sleep(self) -> None:
        when = self._next_turn()
        self._reap(-1 if when is None else max(0.0, when - time.monotonic()))

    def _reap(self, timeout: float) -> None:
        """Wait at most so many seconds for anything to happen, and take the results of what has ended."""
        for fd, _ in self._poller.poll(timeout, MOST_EVENTS):
            if fd in self._runner.running:
                self._ended.append(self._runner.reap(fd))
            elif fd == self._signal_fd:
                self._drain_signals()
            else:
                self._lookout.wakeup.seen_readable()

    def _refill(self) -> None:
        """Give the slots that have become free meanwhile to the next jobs. Called between any two pieces of work: with
        short jobs an idle slot costs more than all else."""
        if self._claimed or self._sync is not None:
            if self._runner.running:
                self._reap(0)
            self._start()

    def _next_turn(self) -> float | None:
        """When the first concern wants to be woken, on the monotonic clock."""
        wanted = [self._runner.next_deadline(), self._settler.retry_at, self._settler.due]
        if self._runner.running and self._config.max_log is not None:
            wanted.append(self._logs.at)
        if self._runner.running:
            wanted.append(self._bury_at)
        if self._trouble_until is not None:
            wanted.append(self._trouble_until)
        else:
            if self._claimed:
                wanted.append(self._patient_until)
            wanted.append(self._lookout.next_look(stopping=self._stop > 0))
        if self._stop == 1:
            wanted.append(self._stop_at)
        if self._runner.has_strays:
            wanted.append(time.monotonic() + 0.01)
        return min((when for when in wanted if when is not None), default=None)

    def _finished(self) -> bool:
        if self._runner.running or self._claimed or self._syncing or self._ended:
            return False
        if len(self._settler):  # told to stop now, it doesn't wait for a disk that refuses
            return self._stop == 2 and self._settler.problem is not None
        if self._stop:
            return True
        return self._until_empty and not len(self._lookout.window) and self._is_empty()

    def _is_empty(self) -> bool:
        """Whether nothing is pending, waiting for a retry, or processing, wherever, that this worker could run: it
        doesn't wait for who has other labels. Asked when it has nothing to do; while others work it is asked again
        soon."""
        # One that is being settled lies in none of the states, but in .tmp/; and where it goes was looked at before.
        if not (len(self._lookout.admission) or self._holds(PENDING, FAILED, PROCESSING)
                or any(self._lookout.window.may_take(record.claim.needs) for record in self._spool.settling())
                or self._holds(FAILED, PENDING)):  # fmt: skip
            return True
        self._lookout.look_soon(time.monotonic(), within=0.2)
        return False

    def _holds(self, *states: str) -> bool:
        """Whether a job that this worker could run lies in one of these states."""
        return any(
            True
            for state in states
            for name in self._spool.scan(state)
            if (entry := entry_of(state, name)) and self._lookout.window.may_take(entry.needs)
            and (entry.id or not self._spool.is_directory(name))
        )

    def _leave(self) -> int:
        """Settle what can be settled, give up the lease. What cannot be settled is left to recovery."""
        self._runner.kill_everything()
        self._settler.flush(5.0)
        unsettled = len(self._settler)
        self._heart.stop()
        self._settler.close()
        self._syncer.shutdown(wait=False)
        self._runner.close()
        try:
            self._spool.remove_worker_file(f"{self._lease.worker}.stop")
            self._lease.release()
        except SpoolError as error:
            self._say("warning", str(error))  # whoever works next removes them
        self._lookout.wakeup.stop()
        if unsettled:
            outcomes = plural(unsettled, "outcome")
            self._say("error", f"{outcomes} could not be recorded; whoever works next will recover the jobs")
            return SPOOL
        self._say("info", f"worker {self._lease.worker} has ended; {plural(self.done, 'attempt')}")
        return OK

    def _take_lease(self) -> None:
        self._lease = Lease(self._spool, ROLE_WORKER, slots=self._slots, labels=self._labels,
                            stale_after=self._config.stale_after)  # fmt: skip
        self._census = Census(self._spool, self._config.stale_after, self._lease.worker)
        recovery = Recovery(self._spool, self._lease, self._policy, self._say, lambda: self._config.max_log)
        self._lookout.attach(self._lease, self._census, recovery)
        self._heart = Heart(self._lease, self._config.heartbeat, self._lookout.wakeup.poke)
        if self._network:
            hunt = partial(orphans.hunt, self._lease.worker)
            self._heart.fence_after(self._config.stale_after / 2, self._runner.kill_everything, hunt)
        try:
            self._heart.start()
        except SpoolError:
            self._heart.lost = True  # and taken anew, when a thread can be had
            raise
        if self._stop:
            self._show_stopping()

    def _lose_lease(self) -> None:
        """Somebody took us for dead. Our jobs are theirs: kill, and go on under a new name. What has ended meets the
        fence."""
        self._say("warning", f"the lease of {self._lease.worker} was lost; its jobs are killed, and run elsewhere")
        for attempt in self._runner.running.values():
            self._runner.end(attempt, LOST, time.monotonic(), grace=0.0)
        self._runner.check_deadlines(time.monotonic())
        self._claimed.clear()
        self._settler.give_up_spares()
        self._heart.stop()
        self._obey_request(f"{self._lease.worker}.stop")  # nobody will look for it under the new name
        self._lease.release()
        self._take_lease()

    # -- what it is told ------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        self._poller.register(ours, select.EPOLLIN)
        self._signal_fd = ours
        # A handler only notes: what it interrupts (a rename, a sync) is completed. Whoever started us may have had them
        # blocked, and exec passes that on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OBEYED)
        for number in OBEYED:
            # What nohup(1), or a shell for its background, has had ignored stays so.
            if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: self._signals.append(number))

    def _obey(self) -> None:
        """Signals: the first drains, the second (or SIGQUIT) stops now."""
        while self._signals:
            number = self._signals.popleft()
            self._order_stop(now=self._stop > 0 or number == signal.SIGQUIT, why=signal.Signals(number).name)

    def _drain_signals(self) -> None:
        try:
            while os.read(self._signal_fd, 64):
                pass
        except BlockingIOError:
            pass

    def _order_stop(self, *, now: bool, why: str) -> None:
        if now and self._stop < 2:
            self._stop = 2
            running = plural(len(self._runner.running), "running job")
            self._say("info", f"{why}: stopping now; back to pending/: {running}")
            for attempt in self._runner.running.values():
                self._runner.end(attempt, STOPPED, time.monotonic())
            self._show_stopping()
        elif not self._stop:
            self._stop = 1
            grace = self._config.stop_grace
            self._stop_at = None if grace is None else time.monotonic() + grace
            if self._runner.running:
                running = plural(len(self._runner.running), "running job")
                limit = "" if grace is None else f" at most {say_duration(grace)}"
                level = "warning" if why == "SIGINT" else "info"  # whoever has pressed Ctrl-C is looking
                self._say(level, f"{why}: waiting{limit} for {running}; once more stops now")
            elif self._settler.problem is not None:
                outcomes = plural(len(self._settler), "outcome")
                self._say("warning", f"{why}: waiting until {outcomes} can be recorded; once more stops now")
            self._show_stopping()

    def _show_stopping(self) -> None:
        if self._runner.running or len(self._settler):  # else it is gone in a moment
            try:
                self._lease.say_stopping()
            except SpoolError:
                pass  # nothing depends on it

    def _obey_request(self, name: str) -> None:
        fd = self._spool.open_worker_file(name)
        if fd is None:
            return
        try:
            stop_now = b"true" in os.read(fd, 1000)
        finally:
            os.close(fd)
        self._spool.remove_worker_file(name)
        self._order_stop(now=False, why="worker stop")
        if stop_now:
            self._order_stop(now=True, why="worker stop --now")

    def _reread(self) -> None:
        """Settings are live; a broken file leaves the last good ones in force."""
        try:
            fresh = settings.load(self._spool.config_path, os.environ, self._flags)
        except ConfigError as error:
            self._talk.problem("settings", f"{error} The last good settings stay in force.")
            return
        longer = fresh.stale_after - self._config.stale_after if self._network else 0.0
        if longer > 0 and not self._promise(fresh.stale_after):
            return
        self._talk.problem("settings", "")
        if fresh != self._config:
            self._config = fresh
            self._spool.set_durability(fresh.durability)
            self._census.stale_after = fresh.stale_after
            self._heart.change(fresh.heartbeat, fresh.stale_after / 2)
            self._lookout.poll_interval = fresh.poll_interval
            self._talk.level = fresh.log_level
            self._say("info", "settings were reread")
            if longer < 0:
                self._promise(fresh.stale_after)

    def _promise(self, stale_after: float) -> bool:
        """Say in the lease by which `stale-after` we go. False: it cannot be written now; at the next scan the settings
        are read again."""
        try:
            self._lease.promise(stale_after)
        except SpoolError as error:
            self._talk.problem("settings", f"{error} The last good settings stay in force.")
            return False
        return True

    def _mind(self, now: float) -> None:
        """Look around, and obey what is seen."""
        self._lookout.turn(now, known=self._known_claims, stopping=self._stop > 0)
        if self._heart.lost or self._lookout.lease_missing:
            self._lose_lease()
        if self._lookout.settings_changed:
            self._lookout.settings_changed = False
            self._reread()
        if self._lookout.stop_request:
            name, self._lookout.stop_request = self._lookout.stop_request, ""
            self._obey_request(name)
        for attempt in self._runner.running.values() if self._lookout.cancelled else ():
            if attempt.claim.id in self._lookout.cancelled:
                self._runner.end(attempt, CANCELLED, now)

    def _known_claims(self) -> set[str]:
        known = {claim.key for claim, _ in (*self._claimed, *self._syncing)} | set(self._settled)
        return known | {a.claim.key for a in (*self._runner.running.values(), *self._ended)}

    # -- claim and start ------------------------------------------------------------------------------------------

    def _may_claim(self, now: float) -> bool:
        """Whether new work may be taken: not while stopping or in trouble, nor without a free slot."""
        if self._stop or self._trouble_until is not None or self._settler.problem is not None:
            return False
        if self._lookout.window.starved(stamp(self._now())):
            self._lookout.refresh(now)
        room = self._room()
        enough = room > 0 and (not self._claimed or room >= MOST_AHEAD // 2)  # several share a sync
        return enough and len(self._lookout.window) > 0

    def _room(self) -> int:
        """How many more jobs may be claimed: the free slots, and some ahead if jobs are short, so that a slot doesn't
        wait for a claim and its sync."""
        ahead = min(MOST_AHEAD, int(AHEAD * self._slots / self._pace)) if self._pace < AHEAD else 0
        return self._slots + ahead - len(self._runner.running) - len(self._claimed) - len(self._syncing)

    def _claim(self) -> None:
        """Fill the free slots with the best names of the window."""
        if self._sync is not None or self._room() <= 0:
            return
        free, inodes = self._spool.free()
        if free < self._config.min_free or 0 <= inodes < FEW_INODES:
            least = size(self._config.min_free)
            self._talk.problem("disk", f"less than {least} (setting min-free) or {FEW_INODES} inodes are free; no"
                               " job is started until there is room")
            self._trouble_until = time.monotonic() + TROUBLE_PAUSE
            return
        self._talk.problem("disk", "")
        if not self._check_clock():
            self._trouble_until = time.monotonic() + TROUBLE_PAUSE
            return
        jobs_soon = len(self._runner.running) + len(self._claimed) + len(self._lookout.window)
        self._settler.provide(self._lease.worker, min(self._slots, jobs_soon))
        durable = self._spool.durable
        try:
            self._claim_into(self._syncing if durable else self._claimed)
        except SpoolError:
            self._release_all(self._syncing)
            raise
        if self._syncing:
            self._sync = self._syncer.submit(self._spool.sync, PROCESSING)
            self._sync.add_done_callback(lambda _: self._lookout.wakeup.poke())

    def _check_clock(self) -> bool:
        """Whether jobs may be started by this clock. One that has never been set makes those wait that were accepted by
        a right one; one that is far ahead would start all that was planned for later years."""
        now, wrong = self._now(), ""
        if now < EARLIEST:
            wrong = "jobs that wait for a later time will wait until it is set"
        elif now >= LATEST:
            wrong = "no job is started until it is set"
        self._talk.problem("clock", wrong and f"the clock says that it is the year {iso(now)[:4]}; {wrong}")
        return now < LATEST

    def _claim_into(self, claims: deque[tuple[Claim, jobs.Job]]) -> None:
        wall = stamp(self._now())
        left = self._room()  # jobs that start meanwhile make room for others, but what has ended is to be settled first
        while left > 0:
            spread = min(self._lookout.window.spread() + 2 * self._losses, MOST_SPREAD)
            entry = self._lookout.next_job(random.randrange(spread))
            if entry is None:
                break
            if entry.not_before > wall:  # the clock was set back: a scan says what is due now
                self._lookout.look_soon(time.monotonic(), within=0.0)
                break
            if self._left_alone.get(entry.id, 0.0) > time.monotonic():
                continue
            try:
                claim = self._spool.claim(entry, self._lease.worker, self._lease.next())
            except SpoolError as error:
                if not self._pass_over(entry.id, error):
                    raise
                continue
            if claim is None:
                self._losses += 1
                self._lookout.refresh(time.monotonic())
                continue
            self._losses = 0
            if (job := self._open(claim)) is not None:
                claims.append((claim, job))
                left -= 1
            self._refill()

    def _pass_over(self, job_id: str, error: SpoolError) -> bool:
        """A file that cannot be moved (immutable, mounted, another member's), or a log that cannot be made, must not
        stop the work on the others: the job is left alone until a later scan. False: it isn't this file alone."""
        self._passed_over += job_id not in self._left_alone
        if self._passed_over > MOST_PASSED_OVER or not (error.is_forbidden or error.errno in _OF_ONE_JOB):
            return False
        self._leave_alone(job_id, error)
        return True

    def _leave_alone(self, job_id: str, error: SpoolError) -> None:
        if len(self._left_alone) > MOST_LEFT_ALONE:
            self._left_alone.clear()
        if job_id not in self._left_alone:
            self._say("warning", f"job {job_id} is passed over for now: {error}")
        self._left_alone[job_id] = time.monotonic() + LEFT_ALONE

    def _give_back_unread(self, claim: Claim, error: SpoolError) -> bool:
        """One error of a disk, or a server that is away (a soft mount), makes no bad file of a good one: it is tried
        again for a while. False: it was."""
        now = time.monotonic()
        if error.errno != errno.EIO or now - self._unread.setdefault(claim.id, now) > UNREAD:
            self._unread.pop(claim.id, None)
            return False
        self._leave_alone(claim.id, error)
        self._lookout.look_soon(now, within=LEFT_ALONE)
        self._spool.give_back_unread(claim)
        return True

    def _open(self, claim: Claim) -> jobs.Job | None:
        """Read a claimed job. What is no job is set aside."""
        try:
            job = self._spool.read_claim(claim)
            if self._unread:
                self._unread.pop(claim.id, None)
            return job
        except BadJob as error:
            reason = str(error)
        except SpoolError as error:
            if not error.is_of_one_file:
                raise  # our lack, not the file's; the next census finds the claim, and it is given back
            if self._give_back_unread(claim, error):
                return None
            reason = str(error)
        except MemoryError:
            reason = "reading it takes more memory than there is"
        target = self._spool.reject(PROCESSING, claim.name, reason)
        if target is not None:
            self._say("warning", f"{claim.id} is no job and was set aside as dead/{target}: {reason}")
        return None

    def _start(self) -> None:
        """Start what has been claimed. A claim counts on the disk before its command runs: else a job that brings its
        host down would be tried for ever."""
        if self._sync is not None and self._sync.done():
            error, self._sync = self._sync.exception(), None
            self._claimed.extend(self._syncing)
            self._syncing.clear()
            if error is not None:
                self._release_all(self._claimed)
                raise error
        if self._stop:
            self._release_all(self._claimed)
        while self._claimed and len(self._runner.running) < self._slots:
            self._patient_until = time.monotonic() + PATIENCE
            claim, job = self._claimed.popleft()
            if claim.worker != self._lease.worker or self._heart.is_overdue():
                continue  # the lease was lost, or will be: somebody else has the job, or will have it
            if self._lookout.is_cancelled(claim.id):
                data = jobs.settled(job, claim, claim.attempts, self._now(), None, explain(Outcome(CANCELLED)))
                self._settle(Settlement(Record(claim, DEAD), data), None)
                continue
            try:
                attempt = self._runner.start(claim, job, self._config.default_timeout)
            except Overdue:
                continue
            except (Busy, SpoolError) as error:
                self._settle(release(claim, job, self._now()), None)
                if isinstance(error, SpoolError) and self._pass_over(claim.id, error):
                    continue
                self._talk.problem("start", f"no job can be started: {error}; trying again")
                self._release_all(self._claimed)
                self._trouble_until = time.monotonic() + TROUBLE_PAUSE
                return
            self._talk.problem("start", "")
            self._say("debug", f"job {claim.id}: attempt {attempt.number} started")
            if attempt.outcome is not None:
                self._ended.append(attempt)
            else:
                self._logs.started(attempt.began)
                self._unwatched.add(attempt)
                self._watch_again()

    def _watch_again(self) -> None:
        """Have the kernel tell of the end of what was started. OSError (fs.epoll.max_user_watches): then it is tried
        again at each turn."""
        while self._unwatched:
            attempt = next(iter(self._unwatched))
            # Once: a child that is just being started holds a copy of it, so closing it would not end the watch.
            self._poller.register(attempt.pidfd, select.EPOLLIN | select.EPOLLONESHOT)
            self._unwatched.discard(attempt)

    def _release_all(self, claimed: deque[tuple[Claim, jobs.Job]]) -> None:
        while claimed:
            claim, job = claimed.popleft()
            self._settle(release(claim, job, self._now()), None)

    # -- the end of an attempt --------------------------------------------------------------------------------------

    def _end_attempts(self) -> None:
        """Hand over to the settler what has ended, once no process of it is left."""
        if not self._ended and not self._runner.has_strays:
            return
        for attempt in self._runner.settled_down(self._ended):
            settlement = self._outcome(attempt)
            self._ended.remove(attempt)  # not before: what is in no list would be taken for a lost reply, and run again
            self._settle(settlement, attempt)

    def _outcome(self, attempt: Attempt) -> Settlement:
        """Decide where an ended attempt goes, and write its record."""
        claim, job, now = attempt.claim, attempt.job, self._now()
        assert attempt.outcome is not None
        if attempt.outcome.reason == STOPPED and self._lookout.is_cancelled(claim.id):
            attempt.outcome = attempt.outcome._replace(reason=CANCELLED)  # asked for after the order to stop
        outcome = attempt.outcome
        duration = attempt.ended - attempt.began
        started = now - int((time.monotonic() - attempt.began) * SECOND)
        self._pace += (duration - self._pace) / 8
        decision = decide(self._policy(), job, claim.attempts, outcome, now, random.random)
        entry: dict[str, Any] = {
            "attempt": attempt.number, "worker": claim.worker, "host": self._host, "pid": attempt.pid,
            "started_at": iso(started), "finished_at": iso(now), "duration": round(duration, 6),
        }  # fmt: skip
        if outcome.reason == backoff.EXITED:
            entry["exit_code"] = outcome.exit_code
        elif outcome.reason == backoff.SIGNALLED:
            entry["signal"] = outcome.signal
        else:
            entry["reason"] = outcome.reason
        if log := self._runner.finish_log(attempt):
            entry["log"] = log
            if self._config.max_log is not None and attempt.printed > self._config.max_log:
                self._logs.cut(attempt, self._config.max_log)
        if not decision.counted:
            return release(claim, job, now, entry)
        error = "" if outcome.succeeded else explain(outcome)
        data = jobs.settled(job, claim, claim.attempts, now, entry, error, outcome.exit_code)
        return Settlement(record_for(claim, decision), data)

    def _settle(self, settlement: Settlement, attempt: Attempt | None) -> None:
        self._settled[settlement.record.claim.key] = attempt
        self._settler.add(settlement)

    def _note_settled(self) -> None:
        """Say how attempts ended, and look ahead to their retries."""
        for settlement in self._settler.take():
            record = settlement.record
            attempt = self._settled.pop(record.claim.key)
            if attempt is not None:
                self._runner.recycle_log(attempt)
            if settlement.step == Settlement.REFUSED:
                self._say("warning", f"job {record.claim.id}: the lease was lost, its result is dropped")
                continue
            if record.state in TERMINAL:
                self._lookout.forget_request(record.claim.id)
            else:
                waiting = Entry(record.state, record.target, record.claim.id, record.not_before,
                                record.claim.priority, record.attempts, needs=record.claim.needs)
                self._lookout.window.offer(waiting, stamp(self._now()))
            if attempt is not None:
                self.done += 1
                self._say_outcome(attempt, record)

    def _say_outcome(self, attempt: Attempt, record: Record) -> None:
        assert attempt.outcome is not None
        took = f"attempt {attempt.number}, {say_duration(attempt.ended - attempt.began)}"
        if record.state == COMPLETED:
            self._say("info", f"job {record.claim.id} completed ({took})")
        elif record.state == DEAD:
            self._say("warning", f"job {record.claim.id} is dead ({took}): {explain(attempt.outcome)}")
        elif record.state == FAILED:
            pause = say_duration(max(0.0, (unstamp(record.not_before) - self._now()) / SECOND))
            self._say("info", f"job {record.claim.id} failed ({took}): {explain(attempt.outcome)}; again in {pause}")
        else:
            self._say("info", f"job {record.claim.id} goes back to pending ({took})")

    def _in_trouble(self, error: SpoolError, now: float) -> None:
        """Say it, and look at everything anew in a moment: a claim may have been left half-way."""
        self._talk.problem("spool", str(error))
        self._trouble_until = now + TROUBLE_PAUSE
        self._lookout.look_soon(now, within=TROUBLE_PAUSE)

    # -- small things -----------------------------------------------------------------------------------------------

    def _now(self) -> int:
        """Nanoseconds UTC by the server's clock (R11)."""
        return self._lease.now()

    def _policy(self) -> Policy:
        c = self._config
        return Policy(c.max_retries, c.backoff_base, c.backoff_max, c.jitter, frozenset(c.permanent_exit_codes))
