"""Wake-ups: inotify's word that something in the spool has changed.

Owns one inotify descriptor and its thread (watchdog's InotifyFD), and an eventfd that a select can wait for. What it
tells are hints (R9): they may be missing, doubled or late, and a scan decides. Never touches the spool.

watchdog's observer would read our mask through its move grouper, which holds everything behind an unmatched
IN_MOVED_FROM back for 500 ms, and compares each IN_MOVED_TO with all that is queued; it says nothing of an overflow
(docs/internals.md has the measurements). Its InotifyFD underneath calls back directly, and does tell.

When things go wrong: where inotify is not to be had (no watches left, an unknown watchdog), `problem` says why, and
the caller polls. `healthy` is False once the thread has died or a directory is not the one that is watched.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, NamedTuple

MOST_HINTS = 50_000  # more are not worth keeping: a scan is cheaper


class Hint(NamedTuple):
    """A name in a directory: it was moved there whole, or `in_place`: created or written there. `closed`: its writer
    has just closed it."""

    directory: str
    name: str
    closed: bool
    in_place: bool


class Wakeup:
    """Watches directories. `fileno()` becomes readable when there is something to `take`.

    `directories` maps the caller's names to paths.
    """

    def __init__(self, directories: dict[str, str]) -> None:
        self._directories = directories
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._hints: deque[Hint] = deque()
        self._lost = False
        self._raised = False
        self._inotify: Any = None
        self._watched: dict[str, tuple[int, int]] = {}
        self._broken: Any = None  # the descriptor of which a directory has gone
        self.problem = ""

    def fileno(self) -> int:
        return self._eventfd

    def start(self) -> bool:
        """Watch, or watch anew. False if inotify is not to be had; then `problem` says why."""
        self._end()
        try:
            from watchdog.observers.inotify_c import InotifyConstants as In
            from watchdog.observers.inotify_c import InotifyFD
        except ImportError as error:
            self.problem = f"inotify is not available: {error}"
            return False
        # IN_CREATE because link(2) gives only that. No IN_MOVED_FROM: a claim would wake every worker.
        mask = In.IN_CLOSE_WRITE | In.IN_MOVED_TO | In.IN_CREATE | In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_ONLYDIR
        try:
            self._inotify = InotifyFD()
            self._inotify.daemon = True
            for directory, path in self._directories.items():
                found = os.stat(path)
                self._watched[directory] = (found.st_dev, found.st_ino)
                if not os.access(path, os.R_OK):
                    raise PermissionError(13, "Permission denied", path)
                callback = _Callback(self, directory, self._inotify)
                self._inotify.add_callback(os.fsencode(path), mask, callback, id(callback))
            self._inotify.start()
        except (OSError, TypeError, AttributeError, RuntimeError) as error:
            self._end()
            self.problem = f"inotify is not available: {_advice(error)}"
            return False
        self.problem = ""
        self._lost = True  # what came before is not known: scan
        return True

    def healthy(self) -> bool:
        """Whether the thread lives and each directory is still the one that is watched."""
        if self._inotify is None or self._inotify is self._broken or not self._inotify.is_alive():
            return False
        for directory, path in self._directories.items():
            try:
                found = os.stat(path)
            except OSError:
                return False
            if (found.st_dev, found.st_ino) != self._watched.get(directory):
                return False
        return True

    def take(self) -> tuple[list[Hint], bool]:
        """The hints since the last call, and whether some were lost, so that only a scan can tell."""
        if not self._raised and not self._lost:
            return [], False
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            pass
        self._raised = False  # before the hints are taken: one that comes now raises it again
        hints, lost = [], self._lost
        self._lost = False
        while self._hints:
            hints.append(self._hints.popleft())
        return hints, lost

    def seen_readable(self) -> None:
        """A select has found `fileno()` readable; `take` reads it then, though a thread was stopped in the middle of
        `poke`, and nobody knows of what it has written afterwards."""
        self._raised = True

    def poke(self) -> None:
        """Make `fileno()` readable, from any thread."""
        if not self._raised:
            self._raised = True
            os.eventfd_write(self._eventfd, 1)

    def stop(self) -> None:
        """Watch no more, and give all descriptors up."""
        self._end()
        os.close(self._eventfd)

    def hint(self, hint: Hint | None) -> None:
        """Called in the inotify thread. An exception would end that thread: nothing here can raise."""
        if hint is None or len(self._hints) >= MOST_HINTS:
            self._lost = True
        else:
            self._hints.append(hint)
        self.poke()

    def lose(self, inotify: Any) -> None:
        """Called in the inotify thread: a directory that `inotify` watched was moved or removed. Its inode number tells
        nothing: a directory that is made again at once may get the old one's."""
        self._broken = inotify
        self.hint(None)

    def _end(self) -> None:
        if self._inotify is not None:
            if not self._inotify.is_alive():
                # It leaves its descriptors to the thread that reads them: there is none, or none any more.
                self._inotify._is_reading = False
            self._inotify.stop()
            if self._inotify.is_alive():
                self._inotify.join(5)
        self._inotify = None
        self._watched = {}


class _Callback:
    """What watchdog calls for each event of one directory (its WatchCallback protocol)."""

    def __init__(self, wakeup: Wakeup, directory: str, inotify: Any) -> None:
        self._wakeup = wakeup
        self._inotify = inotify
        self._directory = directory

    def on_event(self, event: Any) -> None:
        if event.name:
            closed = event.is_close_write
            self._wakeup.hint(Hint(self._directory, os.fsdecode(event.name), closed, closed or event.is_create))
        else:
            self._wakeup.lose(self._inotify)

    def on_watch_deleted(self, wd: int) -> None:
        self._wakeup.lose(self._inotify)

    def on_queue_overflow(self) -> None:
        self._wakeup.hint(None)


def _advice(error: Exception) -> str:
    number = getattr(error, "errno", 0)
    if number == 28:  # ENOSPC
        return "no watches are left; raise fs.inotify.max_user_watches with sysctl"
    if number == 24:  # EMFILE
        return "no inotify instances are left; raise fs.inotify.max_user_instances with sysctl"
    return str(error)
