"""The size of logs: what running jobs print stays within the setting max-log.

Owns when to look. A job writes straight to its log, so that nothing holds it up; the worker looks at the sizes, the
sooner the faster they grow, and has the spool cut what is too large. Without running jobs it never looks. Between two
looks a log may be larger than its bound: by what its job prints in a second at most, unless its worker dies. Then the
next worker cuts it before anything else: on a disk that is full of it, nobody could register.

When things go wrong: a log that cannot be cut is told of once and left as it is; the next look tries again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

from queuectl.errors import BadJob, SpoolError
from queuectl.lease import Census
from queuectl.runner import Attempt
from queuectl.spool import Spool

SOONEST, LATEST = 0.05, 1.0  # seconds between two looks


class LogSizes:
    """`at` is when to look next, in seconds, monotonic, if jobs run. `say(level, text)` is told of what is cut."""

    def __init__(self, spool: Spool, say: Callable[[str, str], None]) -> None:
        self.at = 0.0
        self._spool = spool
        self._say = say
        self._last = 0.0
        self._pause = SOONEST
        self._sizes: dict[str, int] = {}  # at the last look
        self._told: set[str] = set()

    def started(self, now: float) -> None:
        """A job has started: how fast it prints is not known."""
        self.at = min(self.at, now + SOONEST)

    def turn(self, now: float, running: Collection[Attempt], bound: int | None) -> None:
        """Look, if it is time. `bound` is the setting."""
        if bound is None or now < self.at or not running:
            return
        pause, sizes = min(2 * self._pause, LATEST), {}
        for attempt in running:
            try:
                size = os.fstat(attempt.log_fd).st_size
            except OSError:
                continue  # ESTALE: somebody has removed it on another host
            grown = size - self._sizes.get(attempt.log, 0)
            if size > bound:
                self.cut(attempt, bound)
                size = os.fstat(attempt.log_fd).st_size
            sizes[attempt.log] = size
            seconds = now - max(self._last, attempt.began)
            if grown > 0:  # at twice this rate the bound is reached
                pause = min(pause, max(SOONEST, (bound - size) * seconds / (2 * grown)))
        self._sizes, self._last, self._pause, self.at = sizes, now, pause, now + pause
        self._told &= sizes.keys()

    def cut(self, attempt: Attempt, bound: int) -> None:
        """Cut the log of an attempt that runs or has just ended. It is said once."""
        try:
            self._spool.cut_log(attempt.log, bound)
            problem = "its beginning and its newest output are kept"
        except SpoolError as error:
            problem = str(error)
        if attempt.log not in self._told:
            self._told.add(attempt.log)
            self._say("warning", f"job {attempt.claim.id} has printed more than {bound} bytes (setting max-log):"
                                 f" {problem}")


def cut_abandoned(spool: Spool, census: Census, bound: int | None) -> None:
    """Cut the logs of jobs whose worker is dead. SpoolError if the claims cannot be read."""
    claims = spool.claims() if bound is not None else []
    living = {info.id for info in census.look(time.monotonic()) if info.alive} if claims else set()
    for claim in claims:
        try:
            job = spool.read_claim(claim) if claim.worker not in living else None
        except BadJob:
            continue  # recovery sets it aside
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            continue
        if job is not None and bound is not None:
            try:
                spool.cut_log(f"{claim.id}.{job.attempt}.log", bound)
            except SpoolError:
                pass  # somebody has put something else there; it is told of when the job is recovered
