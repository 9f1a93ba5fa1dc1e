"""The frame of every peer's program: `load FILE`, `put COMMAND`, `feed`, `work`.

A job is run by /bin/sh with its output thrown away, in all peers alike. A failing job is marked as failed
where the peer knows such a state. Errors of the peer end the program with a traceback, which the harness
shows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

POLL = 0.1


class Queue(ABC):
    """A queue by its Python API."""

    @abstractmethod
    def put(self, command: str) -> None: ...

    def put_all(self, commands: list[str]) -> None:
        """As one operation, where the peer has such."""
        raise NotImplementedError

    def take(self, block: bool) -> tuple[Any, str] | None:
        """The next job and its handle, or None."""
        raise NotImplementedError

    def settle(self, handle: Any, success: bool) -> None:
        raise NotImplementedError


def run_job(command: str) -> int:
    """The task of every Python peer."""
    return subprocess.call(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def feed(put: Callable[[str], None]) -> None:
    """Enqueue each line of stdin; answer with CLOCK_MONOTONIC before and after."""
    for line in sys.stdin:
        command = line.rstrip("\n")
        begin = time.monotonic_ns()
        put(command)
        end = time.monotonic_ns()
        print(begin, end, flush=True)


def work(queue: Queue, until_empty: bool) -> None:
    """Run jobs one after the other; poll every 0.1 s where the peer can't wait for a job."""
    while True:
        job = queue.take(block=not until_empty)
        if job is not None:
            handle, command = job
            queue.settle(handle, run_job(command) == 0)
        elif until_empty:
            return
        else:
            time.sleep(POLL)


def read_commands(path: str) -> list[str]:
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def main(open_queue: Callable[[], Queue]) -> None:
    """The command line: put COMMAND | load FILE | load-all FILE | feed | work [--until-empty]."""
    queue = open_queue()
    match sys.argv[1:]:
        case ["put", command]:
            queue.put(command)
        case ["load", path]:
            commands = read_commands(path)
            begin = time.perf_counter()
            for command in commands:
                queue.put(command)
            print(time.perf_counter() - begin)
        case ["load-all", path]:
            commands = read_commands(path)
            begin = time.perf_counter()
            queue.put_all(commands)
            print(time.perf_counter() - begin)
        case ["feed"]:
            feed(queue.put)
        case ["work", *options]:
            work(queue, "--until-empty" in options)
        case words:
            sys.exit(f"no such command: {words}")
