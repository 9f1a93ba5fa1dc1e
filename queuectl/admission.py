"""Admission: foreign files in pending/ become jobs, or are set aside.

Owns the names that somebody has dropped and that are not jobs yet. A file that was moved in is taken at once; one that
is written in place when it has been left alone for QUIET_TIME. A file that doesn't parse may still be being written: it
is looked at again, at growing distances, until it has been closed or has not changed for SETTLE_TIME; then it goes to
dead/ with its bytes and the reason (R12). Directories are left alone. Nothing here can stop a worker, nor hold it up:
of a flood of files a part is remembered, and of those a part is looked at in each turn; a scan finds the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import islice

from queuectl.core.states import PENDING
from queuectl.errors import BadJob, IdTaken, SpoolError
from queuectl.spool import Entry, Spool

# install(1) and others set mode, owner or times by name after they have closed a file; taken away before, it would make
# them fail.
QUIET_TIME = 0.1  # seconds
SETTLE_TIME = 5.0  # seconds without a change after which a file counts as written
FIRST_LOOK = 0.01  # seconds until an unfinished file is looked at again; doubled each time
MOST_LEFT_ALONE = 10_000
MOST = 10_000  # newcomers that are remembered
LOOKS = 100  # newcomers that are looked at in one turn: 10 ms or so
_OUR_LACK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what this process or host lacks is no fault of the file


class _Newcomer:
    __slots__ = ("closed", "quiet_until", "signature", "since", "step", "when")

    def __init__(self, now: float) -> None:
        self.signature: tuple[int, int, int] | None = None
        self.since = now  # when it was last seen to change
        self.when = now  # when to look at it
        self.step = FIRST_LOOK
        self.closed = False
        self.quiet_until = 0.0  # not to be taken before


class Admission:
    """The newcomers of one spool. `now` arguments are seconds, monotonic; `warn` is told what is set aside."""

    def __init__(self, spool: Spool, warn: Callable[[str], None]) -> None:
        self._spool = spool
        self._warn = warn
        self._newcomers: dict[str, _Newcomer] = {}
        self._left_alone: set[str] = set()
        self._told: set[str] = set()  # of what can neither be taken nor set aside
        self._forgot = False

    def __len__(self) -> int:
        return len(self._newcomers)

    def notice(self, name: str, now: float, *, closed: bool = False, in_place: bool = False) -> None:
        """A foreign name was seen in pending/. `in_place`: it was just created or written there; `closed`: its writer
        has just closed it."""
        if name in self._left_alone:
            if not closed and self._spool.is_directory(name):
                return
            self._left_alone.discard(name)
        newcomer = self._newcomers.get(name)
        if newcomer is None:
            if len(self._newcomers) >= MOST:
                self._forgot = True
                return
            newcomer = self._newcomers[name] = _Newcomer(now)
        if closed:
            newcomer.closed, newcomer.when = True, now
        if in_place:
            newcomer.quiet_until = newcomer.when = now + QUIET_TIME

    def next_look(self) -> float | None:
        """When the next newcomer is to be looked at (seconds, monotonic); None if there is none."""
        return min((newcomer.when for newcomer in self._newcomers.values()), default=None)

    def starved(self) -> bool:
        """Whether names were forgotten, and there is room for them again: a scan must bring them back. Said once."""
        if self._forgot and 2 * len(self._newcomers) <= MOST:
            self._forgot = False
            return True
        return False

    def turn(self, now: float, wall: int) -> list[Entry]:
        """Look at what is due, or a part of it; the jobs that have been adopted. `wall` is nanoseconds UTC, by the
        server's clock."""
        adopted = []
        due = (name for name, newcomer in self._newcomers.items() if newcomer.when <= now)
        for name in list(islice(due, LOOKS)):
            entry = self._look(name, self._newcomers[name], now, wall)
            if entry is not None:
                adopted.append(entry)
        return adopted

    def _look(self, name: str, newcomer: _Newcomer, now: float, wall: int) -> Entry | None:
        signature = self._spool.signature(name)
        if signature != newcomer.signature:
            if newcomer.signature is not None and newcomer.quiet_until:
                newcomer.quiet_until = now + QUIET_TIME
            newcomer.signature, newcomer.since = signature, now
        if now < newcomer.quiet_until:
            newcomer.when = newcomer.quiet_until
            return None
        try:
            entry = self._spool.adopt(name, wall)
        except IdTaken as error:
            self._set_aside(name, str(error), error.file)
            return None
        except BadJob as error:
            if self._spool.is_directory(name):
                self._leave_alone(name)
            elif (newcomer.closed and signature and signature[1]) or now - newcomer.since >= SETTLE_TIME:
                self._set_aside(name, str(error), name, signature)
            else:
                newcomer.when = min(now + newcomer.step, newcomer.since + SETTLE_TIME)
                newcomer.step = min(2 * newcomer.step, 1.0)
            return None
        except SpoolError as error:
            if not error.path.endswith(name) or error.errno in _OUR_LACK:
                raise
            newcomer.when = now + 1.0
            if now - newcomer.since >= SETTLE_TIME:
                self._set_aside(name, str(error), name, signature)
            return None
        del self._newcomers[name]
        return entry

    def _set_aside(
        self, name: str, reason: str, file: str, signature: tuple[int, int, int] | None = None
    ) -> None:
        """`file` is the name that the newcomer `name` has now."""
        del self._newcomers[name]
        try:
            target = self._spool.reject(PENDING, file, reason, signature)
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            if name not in self._told and len(self._told) < MOST_LEFT_ALONE:  # each scan finds it again
                self._told.add(name)
                self._warn(f"pending/{name} can neither be taken nor set aside, and stays there: {error}")
            return
        if target is not None:
            self._warn(f"pending/{name} is no job and was set aside as dead/{target}: {reason}")

    def _leave_alone(self, name: str) -> None:
        del self._newcomers[name]
        if len(self._left_alone) < MOST_LEFT_ALONE:
            self._left_alone.add(name)
            self._warn(f"pending/{name} is a directory and is left alone; drop files, not directories")
