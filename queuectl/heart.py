"""The heart: renews a worker's lease in a thread of its own, and fences the worker if that fails for too long.

Two threads, because a dead NFS server blocks every call: the one that beats may hang for hours, so another, which
never touches the spool, counts the time since the last beat and kills the worker's jobs at half of `stale-after`,
before another host may take them over (R8). It counts on CLOCK_BOOTTIME: a suspended machine's time has passed too.

When things go wrong: a beat that fails is tried again at the next; `lost` says that the lease is gone for good, taken
away or given up by the fence: a worker that was fenced goes on under a new name, because under the old one it may have
been taken for dead already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from queuectl.errors import SpoolError, few_threads
from queuectl.lease import Lease

LOOK_EVERY = 1.0  # seconds; waits don't count the time in which the machine was suspended


def clock() -> float:
    """Seconds since boot, with the time that the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Heart:
    """`interval` is seconds between two beats. `wake` is called when the lease is lost."""

    def __init__(self, lease: Lease, interval: float, wake: Callable[[], None]) -> None:
        self.lost = False
        self._interval = interval
        self._lease = lease
        self._wake = wake
        self._last = clock()
        self._beating: threading.Thread | None = None
        self._stirred = threading.Condition()
        self._ended = False
        self._limit: float | None = None
        self._fence: Callable[[], None] = lambda: None
        self._hunt: Callable[[], None] = lambda: None

    def fence_after(
        self, seconds: float, fence: Callable[[], None], hunt: Callable[[], None] = lambda: None
    ) -> None:
        """Call `fence` when no beat has succeeded for so long, and again ten times a second until the heart is
        stopped; and `hunt` once, in a thread of its own, for it may block. To be said before the start."""
        self._limit, self._fence, self._hunt = seconds, fence, hunt

    def change(self, interval: float, fence_after: float) -> None:
        """Go by other settings (seconds) at once, and beat now: others may count by them already, and a worker that
        still waited for its next beat would be taken for dead, or be fenced too late (R8)."""
        with self._stirred:
            self._interval = interval
            if self._limit is not None:
                self._limit = fence_after
            self._stirred.notify_all()

    def is_overdue(self) -> bool:
        """Whether the fence has fallen, or is about to: nothing may be started under this lease any more."""
        return self.lost or (self._limit is not None and clock() - self._last >= self._limit)

    def start(self) -> None:
        """Begin to beat, in a thread. SpoolError if there can be none."""
        beating = threading.Thread(target=self._beat, name="heart", daemon=True)
        try:
            beating.start()
            self._beating = beating
            if self._limit is not None:
                threading.Thread(target=self._guard, name="fence", daemon=True).start()
        except RuntimeError:
            raise few_threads() from None

    def stop(self) -> None:
        """Beat no more; the lease may be given up then."""
        with self._stirred:
            self._ended = True
            self._stirred.notify_all()
        if self._beating is not None:
            self._beating.join(1.0)  # not for ever: it may hang in a call to a dead server

    def _beat(self) -> None:
        while self._pause(lambda: self._interval):
            try:
                alive = self._lease.renew()
            except (SpoolError, OSError):
                continue
            if self._ended:
                return
            if not alive:
                self.lost = True
            if self.lost:
                self._wake()
                return
            self._last = clock()

    def _guard(self) -> None:
        hunted = False
        while self._pause(lambda: min(self._until_fence(), LOOK_EVERY)):
            if self._until_fence() <= 0:
                self.lost = True
                self._fence()
                if not hunted:
                    try:
                        threading.Thread(target=self._hunt, name="hunt", daemon=True).start()
                        hunted = True
                    except RuntimeError:  # this user may have no more threads now; in a moment perhaps
                        pass
                self._wake()

    def _until_fence(self) -> float:
        assert self._limit is not None
        return self._last + self._limit - clock()

    def _pause(self, length: Callable[[], float]) -> bool:
        """Wait so long, at least 0.1 s, or until something was changed. False once the heart is stopped."""
        with self._stirred:
            if not self._ended:
                self._stirred.wait(max(0.1, length()))
            return not self._ended
