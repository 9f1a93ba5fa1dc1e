"""What a queue must offer to be measured: a Driver says what it is, a Session is one queue in one Box.

A measure asks only for what the driver declares (`measures`, `feeds`, `bulk`); anything else raises
NotImplementedError, which is a mistake in the measure. A peer that fails raises harness.Failed.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from .harness import Box, Failed

PATIENCE = 60.0
"""The seconds after which a job that should begin at once counts as lost."""
SCRIPTS = "tests.benchmarks.scripts"
SCRIPT_VARIABLES = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
"""The environment in which scripts/ are importable."""


class Driver(ABC):
    """A queue that can be measured."""

    name: ClassVar[str]
    keeps: ClassVar[str]
    """What an accepted job survives, for the report: "power loss", "a crash", "nothing"."""
    measures: ClassVar[frozenset[str]] = frozenset({"throughput", "latency", "idle"})
    feeds: ClassVar[tuple[str, ...]] = ()
    """Ways to enqueue one job at a time, for latency."""
    bulk: ClassVar[tuple[str, ...]] = ()
    """Ways to enqueue many jobs, for the rate of enqueueing."""
    durable: ClassVar[bool] = False
    """Whether enqueueing is held against bare files with a sync or without."""
    most_queued: ClassVar[int] = 10_000_000
    """More jobs than that can't wait in it."""
    pause: ClassVar[float] = 0.25
    """The longest pause between two latency jobs: as long as its polling interval, or a poll would be
    foreseen.
    """
    note: ClassVar[str] = ""

    @abstractmethod
    def missing(self) -> str:
        """Why it can't be measured here, or nothing."""

    @abstractmethod
    def version(self) -> str: ...

    def interpreter(self) -> str:
        """The Python that it runs in, for the reference of its start-up."""
        return sys.executable

    @abstractmethod
    def session(self, box: Box) -> Session: ...


class Session(ABC):
    """One queue. Its processes belong to the box, and end with it."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def open(self) -> None:  # noqa: B027 there may be nothing to do
        """Make the queue; start its server if it has one."""

    @abstractmethod
    def load(self, commands: Sequence[str]) -> None:
        """Queue these shell commands, by the fastest of its ways; none runs before start()."""

    @abstractmethod
    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        """Begin to run jobs, `slots` at a time for each of `workers`. Workers that can end by themselves do
        so when the queue is empty, if `until_empty`. `wrap` is put before a worker's command (strace).
        """

    def exited(self) -> bool | None:
        """Have the workers ended by themselves? None if they never do."""
        return None

    def stop(self) -> None:
        """Let the workers end; the queue stays."""
        raise NotImplementedError

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        """A process that enqueues one job at a time, by a way out of Driver.feeds. Lane 1 is the second
        stream.
        """
        raise NotImplementedError

    def enqueue_argv(self, command: str) -> list[str]:
        """The command line that enqueues one job."""
        raise NotImplementedError

    def status_argv(self) -> list[str]:
        """The command line that says how many jobs wait."""
        raise NotImplementedError

    def variables(self) -> Mapping[str, str]:
        """The environment in which those two run."""
        return {}

    def enqueue_bulk(self, commands: Sequence[str], way: str) -> float:
        """Enqueue all, by a way out of Driver.bulk; the seconds that it took, a program's start-up not
        counted.
        """
        raise NotImplementedError

    def write_lines(self, name: str, commands: Sequence[str]) -> Path:
        path = self.box.path / name
        path.write_text("".join(command + "\n" for command in commands), encoding="utf-8")
        return path


class Feeder:
    """A process of scripts/: takes a command on each line of stdin, enqueues it, and answers with two clock
    readings.
    """

    def __init__(self, box: Box, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self._box = box
        self._process = box.spawn(
            argv, env={**SCRIPT_VARIABLES, **(env or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def feed(self, command: str) -> tuple[int, int]:
        """Enqueue, and say when the call began and ended (CLOCK_MONOTONIC, nanoseconds)."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(command + "\n")
            stdin.flush()
            if not select.select([stdout], [], [], PATIENCE)[0]:
                raise Failed(f"the feeder couldn't enqueue within {PATIENCE:.0f} s. {self._box.complaint()}")
            begin, end = stdout.readline().split()
        except (BrokenPipeError, ValueError):
            raise Failed(f"the feeder ended. {self._box.complaint()}") from None
        return int(begin), int(end)


def script(name: str, *words: str | Path, python: str = sys.executable) -> list[str]:
    """The command line of a module of scripts/."""
    return [python, "-m", f"{SCRIPTS}.{name}", *map(str, words)]


def echo_jobs(count: int, target: Path) -> tuple[list[str], int]:
    """The jobs of the throughput measures, and the size of `target` when all have run."""
    return [f"echo {n} >> {target}" for n in range(count)], sum(len(str(n)) + 1 for n in range(count))


def wait_done(session: Session, target: Path, size: int, timeout: float = 300.0) -> None:
    """Return when `target` has reached `size` and the workers, where they end by themselves, have ended."""
    deadline = time.monotonic() + timeout
    while True:
        exited = session.exited()
        try:
            full = target.stat().st_size >= size
        except FileNotFoundError:
            full = False
        if full and exited is not False:
            return
        if exited and not full:
            raise Failed(f"the workers ended before all jobs had run. {session.box.complaint()}")
        if time.monotonic() > deadline:
            raise Failed(f"not done after {timeout:.0f} s. {session.box.complaint()}")
        time.sleep(0.004)
