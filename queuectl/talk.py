"""What a worker says: lines for people, with the time and a level.

A lasting problem is said once, and once more when it is over. When nobody listens (a closed terminal), nothing happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Talk:
    """Lines of at least `level` go to `out`, whole and without a line end."""

    def __init__(self, out: Callable[[str], None], level: str = "info") -> None:
        self.level = level
        self._out = out
        self._problems: dict[str, str] = {}
        self._second, self._clock = 0, ""

    def say(self, level: str, text: str) -> None:
        if _LEVELS[level] < _LEVELS[self.level]:
            return
        second = int(time.time())
        if second != self._second:
            self._second, self._clock = second, time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(second))
        try:
            self._out(f"{self._clock} {level}: {text}")
        except OSError:
            pass  # the terminal is gone; the jobs are not

    def problem(self, what: str, text: str) -> None:
        """`text` says what is wrong with `what`; "" says that nothing is."""
        if self._problems.get(what, "") != text:
            self._problems[what] = text
            self.say("warning" if text else "info", text or f"{what}: the trouble is over")


def size(number: int) -> str:
    """Bytes for people: `64 MiB`, `10 KiB`, `5 bytes`."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if number >> shift:
            return f"{number >> shift:,} {unit}"
    return plural(number, "byte")


def plural(number: int, noun: str) -> str:
    """`1 slot`, `2 slots`, `10,000 slots`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
