"""Feeders that need no peer: `cli WORD...` runs a command line, `fifo PATH` writes a line, `drop SPOOL`
renames a file.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable

from .common import feed


def cli(words: list[str]) -> Callable[[str], None]:
    def put(command: str) -> None:
        subprocess.run([*words, command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)

    return put


def fifo(path: str) -> Callable[[str], None]:
    descriptor = os.open(path, os.O_WRONLY)

    def put(command: str) -> None:
        os.write(descriptor, f"{command}\n".encode())

    return put


def drop(spool: str) -> Callable[[str], None]:
    """What a program that knows nothing of queuectl does: write a file beside, rename it into pending/."""
    numbers = itertools.count()

    def put(command: str) -> None:
        name = f"feed-{os.getpid()}-{next(numbers)}"
        beside = f"{spool}/.tmp/{name}"
        with open(beside, "w", encoding="utf-8") as stream:
            json.dump({"command": command}, stream)
        os.rename(beside, f"{spool}/pending/{name}.json")

    return put


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["cli", *words] if words:
            feed(cli(words))
        case ["fifo", path]:
            feed(fifo(path))
        case ["drop", spool]:
            feed(drop(spool))
        case words:
            sys.exit(f"no such feeder: {words}")
