"""The port between the spool and the kernel, as the sweeps need it: it lists calls, and kills or refuses at one.

A Port stands in for `os` in Spool(..., fs=...). It counts while `armed`; nothing is counted before, so the
preparation of an operation has no points. fsync is counted and not executed: no test of this package ends power.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

CHANGES = frozenset({"rename", "unlink", "symlink", "link", "mkdir", "write", "fsync", "ftruncate", "fchmod"})
LOOKS = frozenset({"open", "read", "lstat", "fstat", "stat", "listdir", "scandir", "readlink"})


class Port:
    """`before(number, call)` is called before each watched call, numbered from 1; it may raise instead of the call.
    A call is shown as `name path`, the path relative to `root`; creating a file is "create"."""

    def __init__(self, root: str, watched: frozenset[str], before: Callable[[int, str], None]) -> None:
        self.calls: list[str] = []
        self.armed = False
        self._root = root
        self._watched = watched
        self._before = before
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES | LOOKS | {"close"}:
            return real

        def call(*args: Any, **more: Any) -> Any:
            shown = self._show(name, args)
            if self.armed and (shown.partition(" ")[0] in self._watched):
                self.calls.append(shown)
                self._before(len(self.calls), shown)
            result = None if name == "fsync" else real(*args, **more)
            if name == "open":
                self._paths[result] = args[0]
            elif name == "close":
                self._paths.pop(args[0], None)
            return result

        return call

    def _show(self, name: str, args: tuple[Any, ...]) -> str:
        first = self._paths.get(args[0], "?") if isinstance(args[0], int) else args[0]
        if name == "open" and args[1] & os.O_CREAT:
            name = "create"
        paths = [first, args[1]] if name in ("rename", "link") else [args[1]] if name == "symlink" else [first]
        return " ".join([name, *(os.path.relpath(path, self._root) for path in paths)])


def count() -> Callable[[int, str], None]:
    """Only count."""
    return lambda number, call: None


def kill_before(when: int) -> Callable[[int, str], None]:
    """kill -9 of this very process before the call of that number."""

    def before(number: int, call: str) -> None:
        if number == when:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def refuse(when: int, error: int, lasting: bool = False) -> Callable[[int, str], None]:
    """The call of that number, or all from that number on, fail with this errno and are not done. What frees room is
    never refused for want of room."""

    def before(number: int, call: str) -> None:
        frees = call.startswith("unlink") and error in (errno.ENOSPC, errno.EDQUOT)
        if (number == when or (lasting and number > when)) and not frees:
            raise OSError(error, os.strerror(error), call)

    return before


CREATES = CHANGES | {"create"}
EVERYTHING = CREATES | LOOKS
