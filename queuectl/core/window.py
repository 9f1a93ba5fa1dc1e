"""The window: the best few thousand names of a queue that may hold millions.

Owns the order in which one worker tries names: higher priority first, then, among workers that share a spool, the
names of its own share (so that ten hosts don't all try the same name), then older not_before. Names whose job needs a
label that this worker hasn't got never enter: they take no room, and nobody scans for them. Bounded: what doesn't fit
is forgotten, and `starved` says when a scan must bring it back. Pure: what is here may be long gone in the spool; the
claim finds out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar
from zlib import crc32

from queuectl.core.names import is_met

PATIENCE = 4  # scans for which a job is left to the worker whose share it is, and then to the one who helps out


class Named(Protocol):
    """What the window must know of a waiting job (spool.Entry has it)."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def not_before(self) -> str: ...
    @property
    def needs(self) -> str: ...


class Share(NamedTuple):
    """Which names a worker tries first: those that hash to `place` among `workers`."""

    place: int = 0
    workers: int = 1

    def holds(self, job_id: str) -> bool:
        return self.workers == 1 or crc32(job_id.encode()) % self.workers == self.place

    def helps(self, job_id: str) -> bool:
        """Whether it is, of the others, the first to try what the owner leaves lying."""
        rest, owner = divmod(crc32(job_id.encode()), self.workers)
        return self.workers > 1 and (owner + 1 + rest % (self.workers - 1)) % self.workers == self.place


_T = TypeVar("_T")
_Key = tuple[int, int, str, str]  # -priority, whether it is another's share, not_before, name


class Window:
    """The waiting jobs that one worker knows of, and may take with its `labels`. `size` bounds it; time stamps are
    compared as text."""

    def __init__(self, size: int = 10_000, labels: frozenset[str] = frozenset()) -> None:
        self._size = size
        self._labels = labels
        self._division: tuple[int, Sequence[frozenset[str]]] = (0, [labels])
        self._shares: dict[str, Share] = {}  # by needs
        # The not_before of the last job taken from the own share, now and when the last scans began.
        self._passed = ""
        self._passed_before = deque([""] * (2 * PATIENCE), maxlen=2 * PATIENCE)
        self.clear()

    def clear(self) -> None:
        """Forget all names, before a scan offers them anew."""
        self._passed_before.append(self._passed)
        self._ready: list[tuple[_Key, Named]] = []
        self._later: list[tuple[str, str, Named]] = []  # not_before, name
        self._known: set[str] = set()  # with those that were taken: a late hint must not bring them back (R4)
        self._ready_bound: _Key | None = None  # what is worse than this was forgotten
        self._later_bound: str | None = None  # what comes after this was forgotten

    def __len__(self) -> int:
        return len(self._ready)

    def divide(self, place: int, workers: Sequence[frozenset[str]]) -> bool:
        """Share the queue with `workers`, each given by its labels; this one is at `place`. True if that is a change,
        and the window needs a scan."""
        division = (place, workers)
        changed, self._division = division != self._division, division
        if changed:
            self._shares.clear()
        return changed

    def may_take(self, needs: str) -> bool:
        """Whether this worker has the labels that a job needs."""
        return is_met(needs, self._labels)

    def _share(self, needs: str) -> Share:
        """The place among those who have the labels: a share of whom cannot run the job would be nobody's."""
        share = self._shares.get(needs)
        if share is None:
            place, workers = self._division
            able = [number for number, labels in enumerate(workers) if number == place or is_met(needs, labels)]
            share = self._shares[needs] = Share(able.index(place), len(able))
        return share

    def offer(self, entry: Named, now: str) -> None:
        """A name that was seen in pending/ or failed/. `now` is a stamp: later ones wait for their time."""
        if entry.name in self._known or (entry.needs and not self.may_take(entry.needs)):
            return
        if entry.not_before > now:
            if self._later_bound is None or entry.not_before <= self._later_bound:
                self._known.add(entry.name)
                heapq.heappush(self._later, (entry.not_before, entry.name, entry))
                if len(self._later) > 2 * self._size:
                    self._later, forgotten = _halve(self._later)
                    self._known.difference_update(name for _, name, _ in forgotten)
                    self._later_bound = self._later[-1][0]
            return
        key = (-entry.priority, int(self._is_anothers(entry)), entry.not_before, entry.name)
        if self._ready_bound is None or key <= self._ready_bound:
            self._known.add(entry.name)
            heapq.heappush(self._ready, (key, entry))
            if len(self._ready) > 2 * self._size:
                self._ready, worse = _halve(self._ready)
                self._known.difference_update(item.name for _, item in worse)
                self._ready_bound = self._ready[-1][0]

    def _is_anothers(self, entry: Named) -> bool:
        """What its owner has left lying for PATIENCE scans (it is busy) is tried by one other worker, after as many
        again by anybody. At once it must not be: owners are never equally far, and all who are ahead would try the
        names of those who are behind."""
        share = self._share(entry.needs)
        if share.holds(entry.id) or entry.not_before <= self._passed_before[0]:
            return False
        return not (entry.not_before <= self._passed_before[PATIENCE] and share.helps(entry.id))

    def ripen(self, now: str) -> None:
        """Make ready what has become due by `now`."""
        while self._later and self._later[0][0] <= now:
            _, name, entry = heapq.heappop(self._later)
            self._known.discard(name)
            self.offer(entry, now)

    def spread(self) -> int:
        """Among how many of the next names the caller should choose by chance. One, if the next is of the own share, or
        left for this worker to help out with: nobody else tries it now. Else as many as there are workers, for they may
        all try it."""
        if not self._ready:
            return 1
        entry = self._ready[0][1]
        share = self._share(entry.needs)
        return 1 if share.holds(entry.id) or share.helps(entry.id) else share.workers

    def pop(self, ahead: int = 0) -> Named | None:
        """The next name to try; None if there is none. `ahead` skips that many equals first: after a lost race."""
        skipped = []
        while ahead > 0 and len(self._ready) > 1 and self._ready[0][0][:2] == self._ready[1][0][:2]:
            skipped.append(heapq.heappop(self._ready))
            ahead -= 1
        if not self._ready:
            return None
        if len(self._known) > 8 * self._size:
            self._known = {item.name for _, item in self._ready} | {name for _, name, _ in self._later}
        key, entry = heapq.heappop(self._ready)
        for item in skipped:
            heapq.heappush(self._ready, item)
        if not key[1]:
            self._passed = max(self._passed, entry.not_before)
        return entry

    def next_due(self) -> str | None:
        """The stamp at which the next name becomes ready (or at which a scan must look for it); None for never."""
        if self._later:
            return self._later[0][0]
        return self._later_bound

    def starved(self, now: str) -> bool:
        """Whether names were forgotten that are the next to run: a scan must bring them back."""
        if not self._ready and self._ready_bound is not None:
            return True
        return not self._later and self._later_bound is not None and self._later_bound <= now


def _halve(heap: list[_T]) -> tuple[list[_T], list[_T]]:
    """The better half of a heap, sorted (which is a heap too), and the worse."""
    heap.sort()  # type: ignore[call-overload,unused-ignore]
    middle = len(heap) // 2
    return heap[:middle], heap[middle:]
