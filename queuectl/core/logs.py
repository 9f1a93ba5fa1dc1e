"""What stays of a log that has grown too large: its head, a mark that says how much was left out, the newest output.

The mark stands at a fixed place, so that whoever follows a log knows without asking how far the rest has moved.
"""

from __future__ import annotations

HEAD = 64 << 10  # bytes: how a job began says more than what it repeats later
TAIL = 4 << 20  # bytes of the newest output that each cut keeps; they are copied in a few milliseconds
LEAST = 1 << 20  # bytes: below this, a cut would leave nothing to grow into

_BEFORE, _AFTER = b"\n[queuectl: ", b" bytes were left out here]\n"


def mark(left_out: int) -> bytes:
    """The line that stands between head and tail."""
    return _BEFORE + b"%20d" % left_out + _AFTER


MARK = len(mark(0))


def tail(bound: int) -> int:
    """About how much of the newest output a cut keeps: it begins with a whole line."""
    return min(TAIL, bound // 4)


def left_out(text: bytes) -> int:
    """How many bytes the `MARK` bytes at `HEAD` say were left out; 0 if they are no mark."""
    number = text[len(_BEFORE) : -len(_AFTER)].strip(b" ")
    return int(number) if number.isdigit() and text == mark(int(number)) else 0
