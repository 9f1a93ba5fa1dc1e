"""File systems that crash, refuse or lie. Each stands in for `os` in Spool(..., fs=...)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

# What changes the tree or what it holds, and can fail by itself.
CHANGES: tuple[str, ...] = ("open", "write", "ftruncate", "fsync", "rename", "link", "symlink", "unlink", "mkdir",
                            "fchmod")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Crash(BaseException):
    """The process is gone: nothing may catch this, and nothing is done after it."""


class Fs:
    """An os that calls `before(name, args)` and `after(name, args)` around each call that changes something."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        """May raise: then the call is not made."""

    def after(self, name: str, args: tuple[Any, ...]) -> None:
        """May raise: then the call has been made."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & _WRITES:
                return real(*args, **more)
            self.calls.append((name, args))
            self.before(name, args)
            result = real(*args, **more)
            try:
                self.after(name, args)
            except BaseException:
                if name == "open":
                    os.close(result)
                raise
            return result

        return call


class CrashingFs(Fs):
    """The process dies before the k-th change (counted from 1, once armed), and makes no call any more."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.dead = False

    def arm(self, k: int) -> None:
        self.left = k

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        if self.left is not None:
            self.left -= 1
            self.dead = self.dead or self.left <= 0
        if self.dead:
            raise Crash


class FailingFs(Fs):
    """The k-th change of a kind fails with an error and is not made; `lasting`: and all later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.arm(0, 0)

    def heal(self) -> None:
        self.arm(0, 0)

    @property
    def was_reached(self) -> bool:
        """Whether there was a k-th change, so that it failed. To be asked before it is healed."""
        return self.left <= 0

    def arm(self, k: int, error: int, *, lasting: bool = False, kinds: tuple[str, ...] = CHANGES) -> None:
        self.left, self.error, self.lasting, self.kinds = k, error, lasting, kinds

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        # Nothing that makes room, or reads, is refused by a full disk.
        if self.error and name in self.kinds and not (name == "unlink" and self.error in (errno.ENOSPC, errno.EDQUOT)):
            self.left -= 1
            if self.left == 0 or (self.left < 0 and self.lasting):
                raise OSError(self.error, os.strerror(self.error), args[0] if isinstance(args[0], str) else None)


class LyingFs(Fs):
    """The k-th rename, link, symlink or creation is made, and then answered with an error: the reply was lost."""

    KINDS = ("rename", "link", "symlink", "open")

    def __init__(self) -> None:
        super().__init__()
        self.left, self.error = 0, 0
        self.lied_about = ""

    def arm(self, k: int, error: int) -> None:
        self.left, self.error, self.lied_about = k, error, ""

    def after(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open" and not args[1] & os.O_EXCL:
            return
        if name in self.KINDS:
            self.left -= 1
            if self.left == 0:
                self.lied_about = name
                raise OSError(self.error, os.strerror(self.error), args[0])


def every_call(run: Callable[[int], bool], limit: int = 200) -> int:
    """Call `run(k)` for k = 1, 2, ... until it says that the operation ended before its k-th change. How many there
    were."""
    for k in range(1, limit):
        if run(k):
            return k - 1
    raise AssertionError(f"more than {limit} changes in one operation")
