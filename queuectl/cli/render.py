"""Rendering: what a person's terminal or a script gets to see.

Owns the escaping of what strangers wrote (control characters, escape sequences, bidi marks, bytes that are not UTF-8),
the masking of environment values, tables, colours, times and JSON. Knows nothing of spools.

A terminal must never execute what a job file says; JSON is always valid UTF-8; a table is for people and may improve.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TextIO

from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING, PROCESSING
from queuectl.core.times import local, parse_instant
from queuectl.errors import QueuectlError

MASK = "***"
NARROWEST = 20  # columns; rather than cut the last column to less, the terminal may wrap it
AT_ONCE = 1000  # rows of a table that are measured before they are printed
_KEPT = "\u3000"  # a space of East Asian text: a separator that shows what it is
_COLOURS = {PENDING: "33", PROCESSING: "36", COMPLETED: "32", FAILED: "35", DEAD: "31"}


def say(message: str) -> None:
    """Talk to the person: one sentence on stderr, and what to do next."""
    try:
        sys.stderr.write(f"queuectl: {safe(message)}\n")
        sys.stderr.flush()
    except OSError:  # nobody listens
        pass


def complain(error: QueuectlError) -> int:
    """Say what went wrong; the exit code that belongs to it."""
    message = str(error)
    say(message if message.endswith((".", "!", "?", "`")) else f"{message}.")
    if usage := getattr(error, "usage", ""):
        try:
            sys.stderr.write(f"{usage.rstrip()}\n")
        except OSError:
            pass
    return error.exit_code


# -- text -----------------------------------------------------------------------------------------------------------


def safe(text: str) -> str:
    """The text with everything escaped that a terminal would act on, or that nobody could see."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in _KEPT else _escape(letter) for letter in text)


def block(text: str, indent: str) -> str:
    """Text of several lines for a person: each line is escaped, and all but the first are indented."""
    return f"\n{indent}".join(safe(line.expandtabs()) for line in text.rstrip("\n").split("\n"))


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter in "\t\n\r":
        return {"\t": "\\t", "\n": "\\n", "\r": "\\r"}[letter]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """How many columns a terminal needs for the text."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text: str, columns: int) -> str:
    """The text, with an ellipsis if it needs more than so many columns."""
    if width(text) <= columns:
        return text
    kept = text[: max(columns - 3, 0)]
    while kept and width(kept) > columns - 3:
        kept = kept[:-1]
    return f"{kept}..."


# -- tables and colours -----------------------------------------------------------------------------------------------


def columns(stream: TextIO | None = None) -> int | None:
    """How wide the terminal is; None if there is none."""
    stream = stream or sys.stdout
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80 if stream.isatty() else None
    except (OSError, ValueError):
        return None


def has_colour(stream: TextIO | None = None) -> bool:
    """Whether to use colours: only on a terminal that can, and not if NO_COLOR is set (no-color.org)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, state: str) -> str:
    """The text in the state's colour, if colours are used."""
    return f"\x1b[{_COLOURS[state]}m{text}\x1b[0m" if state in _COLOURS and has_colour() else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, state: int | None = None) -> None:
    """Print a table. The last column is cut to the terminal's width; column `state` is coloured by its value.

    Columns are as wide as the widest cell so far; a table of a million rows is not held in memory for that.
    """
    room = columns()
    widths = [0] * len(head)
    found = iter(rows)
    piece = [list(head), *([safe(cell) for cell in row] for row in islice(found, AT_ONCE))]
    first = True
    while piece:
        widths = [max(size, *map(width, column)) for size, *column in zip(widths, *piece, strict=True)]
        for row in piece:
            if room is not None:
                row[-1] = cut(row[-1], max(room - sum(widths[:-1]) - 2 * len(widths[:-1]), NARROWEST))
            cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
            if state is not None and not first:
                cells[state] = paint(cells[state], row[state])
            print("  ".join([*cells[:-1], row[-1]]).rstrip())
            first = False
        piece = [[safe(cell) for cell in row] for row in islice(found, AT_ONCE)]


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one a line. Values are escaped by the caller, who may colour them."""
    shown = list(pairs)
    size = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{size}}  {value}".rstrip())


def moment(ns: int | None) -> str:
    """A time in a table: today's without its date where a terminal has little room."""
    if ns is None:
        return ""
    text = local(ns)
    return text[11:] if columns() is not None and text[:10] == local(time.time_ns())[:10] else text


def when(text: str) -> str:
    """An ISO time of a record, as people read it: local time with its zone."""
    try:
        return local(parse_instant(text))
    except ValueError:
        return safe(text)


# -- JSON -------------------------------------------------------------------------------------------------------------


def to_json(value: object) -> str:
    """One line of JSON: valid UTF-8, and nothing in it that a terminal would act on."""
    import json

    text = json.dumps(value, ensure_ascii=False)
    plain = _is_utf8(sys.stdout.encoding) or text.isascii()
    if plain and text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() and (plain or letter.isascii()) else _json_escape(letter) for letter in text
    )


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def _json_escape(letter: str) -> str:
    """What is not printable stands inside a string, where JSON takes an escape. Half of a surrogate pair is no
    character in any escape; it becomes text that says which byte it was."""
    code = ord(letter)
    if 0xD800 <= code <= 0xDFFF:
        return f"\\{_escape(letter)}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def masked(body: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the values of its environment, which may be secrets."""
    shown = dict(body)
    for name in ("env", "payload"):
        value = shown.get(name)
        if isinstance(value, Mapping):
            shown[name] = dict.fromkeys(value, MASK) if name == "env" else masked(value)
    return shown
