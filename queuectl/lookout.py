"""The lookout: what one worker knows of the spool around it.

Owns the window of waiting names, the newcomers, the census of leases, and when to look again: at hints, at the next
not_before, at a slow scan in any case, and on a network file system at every poll. It recovers what the dead left,
through recover.py. Never claims, starts or settles anything.

When things go wrong: dropped events, a dead watcher, or a directory that is not the one it was end in watching anew and
a scan; where inotify is not to be had, the spool is listed instead. SpoolError goes to the worker, which tries again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from queuectl.admission import Admission
from queuectl.core.names import Claim, is_taken
from queuectl.core.states import FAILED, PENDING, WAITING
from queuectl.core.times import SECOND, say_duration, stamp, unstamp
from queuectl.core.window import Window
from queuectl.disk import WORKERS
from queuectl.lease import LOOK_EVERY, ROLE_WORKER, Census, Lease
from queuectl.recover import Recovery
from queuectl.runner import seal_descriptors
from queuectl.spool import Entry, Spool, entry_of
from queuectl.wakeup import Wakeup

SLOW_SCAN = 30.0  # seconds; a scan happens this often in any case (R9), and bounds a step of the wall clock (R11)
WATCH_AGAIN = 5.0  # seconds after which watching that failed is tried again
STUCK = 2.0  # seconds until it is seen again whether what a dead worker has left has ended
SWEEP_EVERY = 600.0  # seconds between two looks for what nobody needs any more
SCAN_SHARE = 10  # a stale window may be scanned again after this many times the length of the last scan
AFTER_TOUCH = 0.25  # seconds; more than a tick of any server's clock
FEW = 1_000  # names that are listed by a handful of requests: if that took long, the machine or its network was busy
ROOT = "."

Say = Callable[[str, str], None]  # level, text


def watched(since: float, stale_after: float, poll_interval: float) -> float:
    """How many of the seconds since the last look count as time in which others were watched.

    While we were blocked ourselves (a server was away) we have seen nothing: such time counts little, or all hosts
    would take each other for dead when the server is back. The usual time between two looks counts in full, up to half
    of `stale_after`, so that no single gap is enough to call anybody dead.
    """
    return min(since, max(stale_after / 8, 1.25 * poll_interval), stale_after / 2)


class Lookout:
    """The surroundings of one worker.

    `wall` gives nanoseconds UTC by the server's clock; `now` arguments are seconds, monotonic. `poll_interval` is the
    setting, and may be changed.
    """

    def __init__(
        self, spool: Spool, *, network: bool, poll_interval: float, wall: Callable[[], int], say: Say,
        labels: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.poll_interval = poll_interval
        self.window = Window(labels=labels)
        self.admission = Admission(spool, lambda text: say("warning", text))
        self.wakeup = Wakeup({d: spool.dir(d) for d in (PENDING, FAILED, WORKERS)} | {ROOT: spool.root})
        self.cancelled: set[str] = set()  # the jobs for which a request lies in workers/
        self.stop_request = ""  # the name of the request that asks us to stop
        self.settings_changed = False
        self.lease_missing = False  # others take our claims for nobody's
        self._spool = spool
        self._network = network
        self._wall = wall
        self._say = say
        self._said = ""  # the problem with watching that was told last
        self._in_doubt: set[str] = set()  # directories whose last listing may hide a name (NFS 3)
        self._watch_at = 0.0  # when to try to watch again
        self._scan_at = 0.0
        self._census_at = 0.0
        self._claims_at = 0.0  # on a network file system, where a listing of what changes all the time has its price
        self._sweep_at = 0.0
        self._stuck = False  # what a dead worker has left is alive still
        self._last_census = time.monotonic()
        self._watched = 0.0  # seconds for which we have looked at others' heartbeats
        self._last_scan = (0.0, 0.0)  # when it ended, and how long it took

    def attach(self, lease: Lease, census: Census, recovery: Recovery) -> None:
        """Look on behalf of this lease from now on."""
        self._lease, self._census, self._recovery = lease, census, recovery
        self.lease_missing = False
        self._census_at = 0.0

    def watch(self) -> str:
        """Begin to watch, or watch anew; how the worker is woken, in words."""
        watching = self.wakeup.start()
        seal_descriptors()
        if not watching:
            if self.wakeup.problem != self._said:
                self._say("warning", f"{self.wakeup.problem}; the spool is listed instead")
            self._said = self.wakeup.problem
            return f"listed every {say_duration(self.poll_interval)}"
        self._said = ""
        return self._spool.mode(self.poll_interval) + (", woken by inotify for what this host does" * self._network)

    @property
    def _polls(self) -> bool:
        return self._network or bool(self.wakeup.problem)

    # -- hints --------------------------------------------------------------------------------------------------

    def take_hints(self, now: float) -> None:
        """What inotify has told since the last turn. Hints carry names: a worker with a million pending files must
        not list them for each new one."""
        hints, lost = self.wakeup.take()
        if lost or (hints and not self.wakeup.healthy()):
            self._scan_at = now  # first: if the spool is gone, this is looked at again until it is back
            self._rewatch(now)
        wall = stamp(self._wall()) if hints else ""
        for hint in hints:
            if hint.directory in WAITING and not is_taken(hint.name):  # it is being adopted; else a scan finds it
                self._notice(hint.directory, hint.name, now, wall, closed=hint.closed, in_place=hint.in_place)
            elif hint.directory == WORKERS:
                self._census_at = now
            elif hint.name == "config.toml":
                self.settings_changed = True

    def _notice(
        self, state: str, name: str, now: float, wall: str, *, closed: bool = False, in_place: bool = False
    ) -> None:
        entry = entry_of(state, name)
        if entry is None:
            return
        if entry.id:
            self.window.offer(entry, wall)
        else:
            self.admission.notice(name, now, closed=closed, in_place=in_place)

    def _rewatch(self, now: float) -> None:
        """Make sure that what is watched, or only listed, is the spool still. SpoolError if it is not."""
        if self.wakeup.healthy():
            return
        self._spool.mend_tree()
        if not self.wakeup.problem or now >= self._watch_at:
            self._watch_at = now + WATCH_AGAIN
            self.watch()
            self._say("debug", "watching anew")

    # -- looks --------------------------------------------------------------------------------------------------

    def turn(self, now: float, *, known: Callable[[], set[str]], stopping: bool) -> None:
        """Look at what is due. `known` gives the keys of the claims that the worker knows to be its own."""
        if now >= self._census_at or now >= self._scan_at:
            self._census_at = now + (self.poll_interval if self._polls else SLOW_SCAN)
            self._take_census(now, known)
        if now >= self._scan_at and stopping:
            self._scan_at = now + SLOW_SCAN
        elif now >= self._scan_at:
            self.scan(now)
        for entry in self.admission.turn(now, self._wall()):
            self.window.offer(entry, stamp(self._wall()))
        if self.admission.starved():
            self.refresh(now)
        self.window.ripen(stamp(self._wall()))

    def next_look(self, *, stopping: bool) -> float | None:
        """When the next look is due, on the monotonic clock."""
        census = self._census_at if self._polls or self._stuck else None
        wanted = [self._scan_at, self.admission.next_look(), census]
        if not stopping and (due := self.window.next_due()) is not None:
            wanted.append(time.monotonic() + (unstamp(due) - self._wall()) / SECOND + 0.0005)
        return min((when for when in wanted if when is not None), default=None)

    def look_soon(self, now: float, within: float) -> None:
        """Look again within so many seconds."""
        self._scan_at = min(self._scan_at, now + within)

    def scan(self, now: float) -> None:
        """List pending/ and failed/: the truth (R9)."""
        self._rewatch(now)
        self.settings_changed = True  # it may have been removed, which no hint tells
        self.window.clear()
        began_at = time.monotonic()
        names, again = 0, False
        for state in WAITING:
            touch = state in self._in_doubt and not self._spool.renew_listing(state)
            began = self._wall()
            wall = stamp(began)
            for name in self._spool.scan(state):
                names += 1
                self._notice(state, name, now, wall)
            if touch:
                self._spool.show_change(state)
                again = True
                self._in_doubt.discard(state)
            elif self._spool.is_in_doubt(state, began):
                self._in_doubt.add(state)
            else:
                self._in_doubt.discard(state)
        ended = time.monotonic()
        took = ended - began_at
        self._last_scan = (ended, took)
        jitter = 0.75 + random.random() / 2  # ten hosts don't all list at the same moment
        pause = self.poll_interval * jitter if self._polls else SLOW_SCAN
        pause = max(pause, SCAN_SHARE * took) if names > FEW else pause
        self._scan_at = ended + (min(pause, AFTER_TOUCH) if again else pause)

    def refresh(self, now: float) -> None:
        """Scan because the window is stale or starved; but scanning may take only its share of the time."""
        last, took = self._last_scan
        if now - last >= SCAN_SHARE * took:
            self.scan(now)
        else:
            self._scan_at = min(self._scan_at, last + SCAN_SHARE * took)

    def next_job(self, ahead: int) -> Entry | None:
        """The best name to try, or one of those that follow `ahead`; None if there is none."""
        entry = self.window.pop(ahead)
        assert entry is None or isinstance(entry, Entry)
        return entry

    # -- the others -----------------------------------------------------------------------------------------------

    def is_cancelled(self, job_id: str) -> bool:
        """Whether the last census saw a request to cancel this job, and it is there still. It may have been obeyed and
        removed since then, and the id be another job's."""
        if job_id not in self.cancelled:
            return False
        if self._spool.has_request(f"{job_id}.cancel"):
            return True
        self.cancelled.discard(job_id)
        return False

    def forget_request(self, job_id: str) -> None:
        """A job has ended: if whoever asked for that doesn't wait for it any more, the request must not meet the job's
        next life."""
        if job_id in self.cancelled:
            self.cancelled.discard(job_id)
            self._spool.remove_worker_file(f"{job_id}.cancel")

    def _take_census(self, now: float, known: Callable[[], set[str]]) -> None:
        """Look who is alive: recover the dead, share the queue with the living, read requests."""
        self._watched += watched(now - self._last_census, self._census.stale_after, self.poll_interval)
        self._last_census = now
        found = self._census.look(self._watched)
        leases = {info.id for info in found}
        requests = [name.rpartition(".") for name in self._spool.names(WORKERS)]
        if (self._lease.worker, ".", "json") not in requests:
            self._spool.check_identity()
            self.lease_missing = True
            return
        unknown: list[Claim] = []
        nobodys = False
        if not self._network or now >= self._claims_at:
            self._claims_at = now + min(SLOW_SCAN, LOOK_EVERY * self._census.stale_after)
            self._recovery.finish_own(known())
            unknown, nobodys = self._look_at_claims(leases, known)
        for own in (info for info in found if info.id == self._lease.worker):
            for claim in unknown:
                self._recovery.take_back(claim, self._wall(), own)
        if nobodys or any(not info.alive for info in found) or now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            if self._recovery.run(lambda: self._census.look(self._watched), self._wall()):
                self._scan_at = now
            self._stuck = self._recovery.is_stuck
        else:
            self._stuck = False
        if self._stuck:
            self._census_at = min(self._census_at, now + STUCK)
        living = sorted((i.id, frozenset(i.labels))
                        for i in found if i.alive and i.role == ROLE_WORKER and not i.stopping)
        place = next((number for number, (worker, _) in enumerate(living) if worker == self._lease.worker), None)
        if place is not None and self.window.divide(place, [labels for _, labels in living]):
            self._scan_at = now
        self.cancelled = {target for target, _, kind in requests if kind == "cancel"}
        if any((target, kind) == (self._lease.worker, "stop") for target, _, kind in requests):
            self.stop_request = f"{self._lease.worker}.stop"

    def _look_at_claims(self, leases: set[str], known: Callable[[], set[str]]) -> tuple[list[Claim], bool]:
        """Our claims that we don't know of, because the reply to a rename was lost (R4); and whether there are others
        that need recovery."""
        unknown, nobodys = [], False
        claims = self._spool.claims()
        ours = known() if claims else set()
        for claim in claims:
            if self._recovery.has_begun(claim) or claim.worker not in leases:
                nobodys = True
            elif claim.worker == self._lease.worker and claim.key not in ours:
                unknown.append(claim)
        return unknown, nobodys
