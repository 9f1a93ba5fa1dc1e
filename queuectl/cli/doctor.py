"""`doctor`: whether the place where the spool lies is good for one.

doctor.py knows what to try and what it means; here it is shown. When things go wrong: that is the answer, by its exit
code: 1 for warnings, 3 for trouble.
"""

from __future__ import annotations

import os
import textwrap

from queuectl import config, doctor
from queuectl.cli.door import Given, open_spool, seconds
from queuectl.cli.render import columns, has_colour, safe, say, to_json, width
from queuectl.errors import NEGATIVE, OK, SPOOL

TEXT = """\
Usage: queuectl doctor [options]

Tries out whether the file system under the spool does what queuectl counts
on: names, exclusive create, links, rename, sync, locks, inotify, clock,
mount options, free space, modes. It works in .doctor/ of the spool, and
leaves nothing behind. Workers and jobs are not disturbed.

With --peer it waits for a second host that does the same on the same spool.
Each measures how soon it sees the other's changes, and how far the clocks
are apart; and both try to claim the same files.

Options:
  --peer       meet a second host, which runs the same
  --wait=TIME  how long to wait for it  [default: 60s]
  --json       print a JSON object: worst, and findings with check, level,
               found and remedy
  --spool=DIR  the spool's directory
  -h, --help   show this text

Exit code: 0 if all is green, 1 if something is yellow (it works, but know
this), 3 if something is red (it doesn't work, or will lose something).

Examples:
  queuectl doctor
  queuectl doctor --peer
"""

CODES = {doctor.GREEN: OK, doctor.YELLOW: NEGATIVE, doctor.RED: SPOOL}
_COLOURS = {doctor.GREEN: "32", doctor.YELLOW: "33", doctor.RED: "31"}


def run(given: Given) -> int:
    spool = open_spool(given)
    wait = seconds(given, "--wait")
    broken = config.problem(spool.config_path, os.environ)
    least = config.BY_KEY["min-free"].default if broken else config.load(spool.config_path, os.environ).min_free
    assert isinstance(least, int)
    findings, _ = doctor.examine(spool, least, wait if given["--peer"] else None, say)
    if broken:  # whoever looks for what is wrong should not be stopped by it
        fault, _, remedy = broken.partition(". ")
        findings.insert(0, doctor.Finding("settings", doctor.RED, fault, remedy))
    worst = doctor.worst(findings)
    if given["--json"]:
        print(to_json({"spool": spool.root, "worst": worst, "findings": [one._asdict() for one in findings]}))
    else:
        _show(findings)
    return CODES[worst]


def _show(findings: list[doctor.Finding]) -> None:
    """A line for each finding, and what to do below it: a table that would be cut tells nobody what to do."""
    size = max(width(one.check) for one in findings)
    room = columns()
    print(f"{'LEVEL':<6}  {'CHECK':<{size}}  FOUND, AND WHAT TO DO")
    for one in findings:
        level = f"{one.level:<6}"
        level = f"\x1b[{_COLOURS[one.level]}m{level}\x1b[0m" if has_colour() else level
        _lines(f"{level}  {one.check:<{size}}  ", size + 10, one.found, room)
        if one.remedy:
            _lines(" " * (size + 10), size + 10, one.remedy, room)


def _lines(head: str, indent: int, text: str, room: int | None) -> None:
    text = safe(text)
    pieces = textwrap.wrap(text, max(room - indent, 20), break_on_hyphens=False) if room else [text]
    print(head + ("\n" + " " * indent).join(pieces))


COMMANDS = {"doctor": (TEXT, run)}
