"""Jobs that stamp a file as they begin, for the measures in which the moment of each job is wanted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from .driver import Session
from .harness import Box, Failed


class Stamps:
    """The file, the commands that write to it, and what they wrote."""

    def __init__(self, box: Box, stamp: Path) -> None:
        self._box = box
        self._path = box.path / "stamps"
        self._command = shlex.join(["exec", str(stamp), str(self._path), "job"])
        self.seen = 0
        """How many stamps have been taken."""

    def commands(self, count: int) -> list[str]:
        return [self._command] * count

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines()[self.seen :] if self._path.exists() else []

    def wait(self, session: Session, count: int, timeout: float = 120.0) -> None:
        """Return when there are `count` stamps that haven't been taken."""
        deadline = time.monotonic() + timeout
        while (found := len(self._lines())) < count:
            if session.exited():
                raise Failed(f"the workers ended after {found} of {count} jobs. {self._box.complaint()}")
            if time.monotonic() > deadline:
                raise Failed(f"{found} of {count} jobs after {timeout:.0f} s. {self._box.complaint()}")
            time.sleep(0.02)

    def take(self) -> list[int]:
        """The clocks of all stamps since the last call, sorted."""
        clocks = sorted(int(line.split()[1]) for line in self._lines())
        self.seen += len(clocks)
        return clocks


def rate(clocks: Sequence[int]) -> float:
    """Jobs a second, from the first beginning to the last."""
    return (len(clocks) - 1) / max(1, clocks[-1] - clocks[0]) * 1e9
