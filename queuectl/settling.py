"""Settling: ended attempts on their way to completed/, failed/, dead/ or back to pending/.

Owns the batch that is being settled and the files recycled by it. With durability "fsync" the syncs run in a thread of
their own and are shared by all that ended meanwhile, so that they hold no loop up; without, settling is done at once.

When things go wrong (a full disk, a read-only mount): the batch is kept and tried again every second, from the step
that it had reached; the claims stand meanwhile, and nothing is lost. A lost lease is a normal result (REFUSED).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from queuectl.errors import SpoolError, few_threads
from queuectl.spool import Settlement, Spool

RETRY_AFTER = 1.0  # seconds
ENOUGH = 8  # attempts that make a batch worth its syncs


def one_thread(name: str) -> ThreadPoolExecutor:
    """A thread for syncs, which runs already: later there may be no room for another one. SpoolError."""
    executor = ThreadPoolExecutor(1, name)
    try:
        executor.submit(int)
    except RuntimeError:
        raise few_threads() from None
    return executor


class Settler:
    """Settles what it is given, in order. `wake` is called, from a thread, when there is something to `take`."""

    def __init__(self, spool: Spool, wake: Callable[[], None]) -> None:
        self._spool = spool
        self._wake = wake
        self._thread = one_thread("settle")
        self._waiting: list[Settlement] = []
        self._batch: list[Settlement] = []
        self._future: Future[None] | None = None
        self._done: list[Settlement] = []
        self._unsynced: set[str] = set()  # directories to which outcomes went since the last sync
        self._numbers = itertools.count()
        self.spares: list[str] = []
        self.problem: SpoolError | None = None
        self.retry_at: float | None = None
        self.due: float | None = None

    def __len__(self) -> int:
        """How many are not settled yet."""
        return len(self._waiting) + len(self._batch)

    def add(self, settlement: Settlement) -> None:
        """Settle this with the next batch."""
        self._waiting.append(settlement)

    def provide(self, worker: str, count: int) -> None:
        """Have a file in hand for each of `count` running jobs, so that their outcomes can be written on a full disk.
        SpoolError."""
        # Those in use come back, unless somebody else has the claim open (or the file system is shared by hosts).
        in_use = 0 if self._spool.network else sum(one.step > Settlement.NEW for one in self._batch)
        while len(self.spares) + in_use < count:
            # Each try has a name of its own: a network file system may have made the one that it refuses.
            self.spares.append(self._spool.make_spare(worker, next(self._numbers)))

    def turn(self, now: float, linger: float = 0.0) -> None:
        """Go on, as far as it goes without waiting. `now` is seconds, monotonic. A batch that is to be synced may wait
        `linger` seconds for others to share its syncs with; `due` says until when.

        Only the syncs run in the thread: each system call there would hand Python's lock over and back, which costs
        more than the call.
        """
        if self._future is not None:
            if not self._future.done():
                return
            error, self._future = self._future.exception(), None
            if error is not None:
                self._fail(error, now)
                return
            self.problem = self.retry_at = None  # also if only directories were synced, and nothing waits behind them
        if self.retry_at is not None and now < self.retry_at:
            return
        try:
            if self._batch and all(one.step > Settlement.BESIDE for one in self._batch):
                self._publish()
            if not self._lingers(now, linger):
                self._begin()
        except SpoolError as error:
            self._fail(error, now)

    def _lingers(self, now: float, linger: float) -> bool:
        """Whether what waits should wait for company. A batch that failed doesn't."""
        if not linger or self._batch or len(self._waiting) >= ENOUGH or not self._spool.durable:
            self.due = None
            return False
        if not self._waiting and not self._unsynced:
            return True
        self.due = self.due or now + linger
        return now < self.due

    def _begin(self) -> None:
        """Take what waits, write the records, and sync them, with the destinations of the last batch."""
        self.due = None
        if not self._batch:
            self._batch, self._waiting = self._waiting, []
        self._spool.write_records(self._batch, self.spares)
        if not self._spool.durable:
            self._spool.sync_records(self._batch)
            self._publish()
        elif self._batch or self._unsynced:
            states, self._unsynced = self._unsynced, set()
            self._future = self._thread.submit(self._sync, self._batch, states)
            self._future.add_done_callback(lambda _: self._wake())

    def _sync(self, batch: list[Settlement], states: set[str]) -> None:
        try:
            self._spool.sync_targets(states)
        except SpoolError:
            self._unsynced |= states  # the main thread leaves it alone while this one runs
            raise
        if batch:
            self._spool.sync_records(batch)

    def _publish(self) -> None:
        self._spool.publish_records(self._batch, self.spares)
        self._unsynced |= {one.record.state for one in self._batch if one.step == Settlement.PUBLISHED}
        self._done += self._batch
        self._batch, self.problem, self.retry_at = [], None, None

    def _fail(self, error: BaseException, now: float) -> None:
        if not isinstance(error, SpoolError):
            raise error
        self.problem, self.retry_at = error, now + RETRY_AFTER

    def take(self) -> list[Settlement]:
        """What has been settled, or refused, since the last call."""
        done, self._done = self._done, []
        return done

    def flush(self, limit: float) -> None:
        """Settle all that waits, for at most `limit` seconds."""
        deadline = time.monotonic() + limit
        while len(self) and time.monotonic() < deadline:
            if self._future is not None:
                try:
                    self._future.exception(max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    return
            self.turn(time.monotonic() + RETRY_AFTER)
            if self.retry_at is not None:
                time.sleep(0.05)  # the disk refuses
        if self._future is None and self._unsynced:
            try:
                self._spool.sync_targets(self._unsynced)
            except SpoolError:
                pass  # the records were synced: after a power cut recovery finds them, there or here

    def close(self) -> None:
        """End. Not while a batch is being settled."""
        self._thread.shutdown(wait=False)
        self.give_up_spares()

    def give_up_spares(self) -> None:
        """Remove the recycled files: under a lost lease they are anybody's to sweep."""
        for name in self.spares:
            self._spool.remove_temporary(name)
        self.spares.clear()
