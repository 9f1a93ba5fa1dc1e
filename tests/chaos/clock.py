"""python -m tests.chaos.clock FILE ARGUMENTS...: queuectl with a wall clock that is off by the seconds that FILE says.

Not libfaketime: that shifts what stat says of all files, also of those that were there before the clock was set; and it
would be passed on to the jobs. The monotonic clock goes on as it is, as when a clock is set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from queuectl.cli import main
from queuectl.disk import Disk

DAY = 86400.0
STEPS = (-DAY, -3600.0, -5.0, 5.0, 3600.0, DAY)
LATER = 2 * DAY  # than all that was ever said by a clock that is off by one of these


class Clock:
    """The clock of all processes of a run that are started with `command`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0.0)
        self.command = (sys.executable, "-m", "tests.chaos.clock", str(path))

    def set(self, offset: float) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(str(offset))
        draft.rename(self._path)


def _shift(path: str) -> None:
    real, real_ns, age = time.time, time.time_ns, Disk._age

    def offset() -> float:
        with open(path) as file:
            return float(file.read())

    def true_age(disk: Disk, name: str) -> float:
        """A file that was made after the step bears the new time; the kernel's clock here was not set."""
        return age(disk, name) - offset()

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)
    Disk._age = true_age  # type: ignore[method-assign]


if __name__ == "__main__":
    _shift(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
