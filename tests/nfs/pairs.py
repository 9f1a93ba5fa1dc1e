"""python -m tests.nfs.pairs make|list N: one host creates files in pending/ in pairs, a few milliseconds apart; another
lists all the time, as a worker does, and prints how many seconds the second file of a pair was missing at most.

A listing that falls between two changes of one time stays in a version 3 client's cache (docs/filesystems.md). The
files are no jobs, so nobody moves them, which would end it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from queuectl.spool import Spool

LIMIT = 10.0  # seconds after which a file counts as missed


def make(spool: Spool, pairs: int) -> None:
    pending = Path(spool.dir("pending"))
    _await(spool, "listing")
    for number in range(pairs):
        (pending / f"a{number}.part").touch()
        then = time.monotonic() + 0.003 * (number % 5)
        while time.monotonic() < then:
            pass
        (pending / f"b{number}.part").touch()
        _await(spool, f"seen{number}")


def see(spool: Spool, pairs: int) -> None:
    _tell(spool, "listing")
    longest = 0.0
    for number in range(pairs):
        first, in_doubt = 0.0, False
        while True:
            if in_doubt:
                spool.renew_listing("pending")
            began = spool.clock()
            names = set(spool.names("pending"))
            in_doubt = spool.is_in_doubt("pending", began)
            if f"a{number}.part" in names:
                first = first or time.monotonic()
                late = time.monotonic() - first
                longest = max(longest, late)
                if f"b{number}.part" in names or late > LIMIT:
                    break
            time.sleep(0.004)
        _tell(spool, f"seen{number}")
    print(longest)


def _tell(spool: Spool, what: str) -> None:
    (Path(spool.root) / f".{what}").touch()


def _await(spool: Spool, what: str) -> None:
    deadline = time.monotonic() + 2 * LIMIT
    while f".{what}" not in {path.name for path in Path(spool.root).iterdir()}:
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


if __name__ == "__main__":
    {"make": make, "list": see}[sys.argv[1]](Spool(), int(sys.argv[2]))
