"""Instants and durations: integers of nanoseconds (UTC, since 1970) on one side, text on the other.

Owns the stamp in file names (`20261122T091530.123456Z`), ISO 8601 in JSON and on the command line, and
durations such as `90s`, `10m`, `2d`. Reads no clock. What cannot be read raises ValueError with a sentence.
"""

from __future__ import annotations

from queuectl.errors import cut

SECOND = 1_000_000_000
MICROSECOND = 1_000
STAMP_LENGTH = 23
LAST = 253_402_300_799 * SECOND  # 9999-12-31T23:59:59Z: the last second that a stamp of four digits can say

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _civil(seconds: int) -> tuple[int, int, int, int, int, int]:
    """Year, month, day, hour, minute, second of an instant, in UTC.

    Howard Hinnant's `civil_from_days` (chrono-Compatible Low-Level Date Algorithms). In plain arithmetic because
    importing datetime costs `enqueue` 4 ms, a seventh of its time.
    """
    days, second_of_day = divmod(seconds, 86400)
    days += 719468
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    minutes, second = divmod(second_of_day, 60)
    hour, minute = divmod(minutes, 60)
    return year, month, day, hour, minute, second


def clamp(ns: int) -> int:
    """The nearest instant that a stamp can say: from 1970 to the end of the year 9999."""
    return min(max(ns, 0), LAST)


def _texts(seconds: int, _last: list[tuple[int, str, str]] = [(-1, "", "")]) -> tuple[int, str, str]:  # noqa: B006
    """A second in both spellings. The last one is remembered: a worker says the same second thousands of times."""
    if _last[0][0] != seconds:
        year, month, day, hour, minute, second = _civil(seconds)
        short = f"{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}."
        long = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."
        _last[0] = (seconds, short, long)
    return _last[0]


def stamp(ns: int) -> str:
    """The instant as file names carry it, cut to microseconds; sorted as text it is sorted by time."""
    seconds, rest = divmod(clamp(ns), SECOND)
    return f"{_texts(seconds)[1]}{rest // MICROSECOND:06}Z"


def iso(ns: int) -> str:
    """The instant as JSON carries it: `2026-11-22T09:15:30.123456Z`."""
    seconds, rest = divmod(clamp(ns), SECOND)
    return f"{_texts(seconds)[2]}{rest // MICROSECOND:06}Z"


def unstamp(text: str) -> int:
    """The instant that a stamp says, in nanoseconds. ValueError if it is not one (month 13, a letter, ...)."""
    from datetime import UTC, datetime

    digits = text[:8] + text[9:15] + text[16:22]
    plain = digits.isascii() and digits.isdigit()
    if len(text) != STAMP_LENGTH or text[8] + text[15] + text[22] != "T.Z" or not plain:
        raise ValueError(f"{cut(text)} is no time stamp")
    y, mo, d, h, mi, s, us = (digits[a:b] for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 20)))
    return _nanoseconds(datetime(int(y), int(mo), int(d), int(h), int(mi), int(s), int(us), UTC))


def next_stamp(text: str) -> str:
    """The stamp one microsecond later: a new name that keeps a job's place in the queue."""
    return stamp(unstamp(text) + MICROSECOND)


def parse_instant(text: str) -> int:
    """ISO 8601 text to nanoseconds UTC. Without a zone it is local time; a date alone is its midnight.

    ValueError says what is expected.
    """
    from datetime import datetime

    try:
        when = datetime.fromisoformat(text.strip())
        ns = _nanoseconds(when if when.tzinfo else when.astimezone())
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{cut(text)} is no time; write it as 2026-11-22T09:15:30Z (ISO 8601)") from None
    if not 0 <= ns <= LAST:
        raise ValueError(f"{cut(text)} lies outside the years 1970 to 9999")
    return ns


def _nanoseconds(when: object) -> int:
    from datetime import UTC, datetime, timedelta

    assert isinstance(when, datetime)
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * MICROSECOND


def local(ns: int) -> str:
    """The instant for people: local time with its zone, to the second: `2026-11-22 10:15:30 +0100`."""
    from datetime import datetime

    try:
        return datetime.fromtimestamp(ns // SECOND).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (ValueError, OverflowError, OSError):
        return iso(ns)


def parse_duration(text: str) -> float:
    """`90`, `90s`, `1.5h`, `1h30m`, `2d` to seconds. ValueError says what is expected."""
    import re

    pieces = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in pieces)
    # 1h30 would be an hour and a half to some, and thirty seconds more than an hour to others.
    needs_unit = len(pieces) > 1 and not all(unit for _, unit in pieces)
    if not pieces or needs_unit or "".join(n + u for n, u in pieces) != text or seconds == float("inf"):
        raise ValueError(f"{cut(text)} is no duration; write it as 90s, 10m, 3h or 2d")
    return float(seconds)


def say_duration(seconds: float) -> str:
    """A duration for people, in one or two units: `0.25s`, `90s`, `12m30s`, `3h20m`, `2d4h`."""
    if seconds < 1e-4:
        return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
    if seconds < 120:
        return f"{seconds:.3g}s"
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size * (2 if unit == "d" else 1):
            whole, rest = divmod(seconds, size)
            small = int(rest // lesser_size)
            return f"{int(whole)}{unit}{small}{lesser}" if small else f"{int(whole)}{unit}"
    raise AssertionError(seconds)
