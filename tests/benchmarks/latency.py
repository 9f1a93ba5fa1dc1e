"""The time from an enqueue to the first instruction of its job.

A job is the program stamp, which writes CLOCK_MONOTONIC to a FIFO before all else; a feeder in a process
of its own reads the same clock before and after it enqueues. So a busy benchmark program delays neither
reading. `after` counts from the end of the enqueue, and is below zero where the job begins before the
enqueuer has returned; `whole` counts from its beginning. A job that hasn't begun after 60 s makes the run
fail.
"""

from __future__ import annotations

import os
import random
import select
import shlex
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .driver import PATIENCE, Feeder
from .harness import Box, Failed


class Probe:
    """A FIFO to which stamps write, and the command that makes one do so."""

    def __init__(self, box: Box, stamp: Path, name: str = "stamps") -> None:
        self._path = box.path / name
        self._stamp = stamp
        os.mkfifo(self._path)
        # read and write, so that there is never an end of file; closed with the process, a few per run
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def close(self) -> None:
        os.close(self._descriptor)

    def command(self, token: str) -> str:
        return shlex.join(["exec", str(self._stamp), str(self._path), token])

    def wait(self, token: str, stop: threading.Event | None = None) -> int | None:
        """The clock that the job `token` wrote; None if `stop` is set first."""
        deadline = time.monotonic() + PATIENCE
        while stop is None or not stop.is_set():
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                written, clock = line.split()
                if written.decode() == token:
                    return int(clock)
                continue
            if select.select([self._descriptor], [], [], 0.5)[0]:
                self._rest += os.read(self._descriptor, 65536)
            elif time.monotonic() > deadline:
                raise Failed(f"the job didn't start within {PATIENCE:.0f} s")
        return None


@dataclass
class Delays:
    """Milliseconds."""

    after: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def delays(probe: Probe, feeder: Feeder, jobs: int, pause: float, warm_up: int = 3) -> Delays:
    """Enqueue one job after the other, at random moments after the last has begun."""
    found = Delays()
    for number in range(-warm_up, jobs):
        time.sleep(random.uniform(0.02, pause))
        token = f"n{number}"
        begin, end = feeder.feed(probe.command(token))
        clock = probe.wait(token)
        assert clock is not None
        if number >= 0:
            found.after.append((clock - end) / 1e6)
            found.whole.append((clock - begin) / 1e6)
    return found


class Stream:
    """Keeps the worker claiming: another job is enqueued as soon as the last has begun, for as long as it
    is entered.
    """

    def __init__(self, probe: Probe, feeder: Feeder) -> None:
        self._probe = probe
        self._feeder = feeder
        self._stop = threading.Event()
        self._error: Failed | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                token = f"s{self.count}"
                self._feeder.feed(self._probe.command(token))
                if self._probe.wait(token, self._stop) is not None:
                    self.count += 1
        except Failed as error:
            self._error = error

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        if self._error is not None:
            raise self._error
