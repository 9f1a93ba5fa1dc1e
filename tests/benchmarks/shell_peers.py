"""The peers that are plain programs: xargs (also the yardstick), task-spooler, nq, GNU parallel.

task-spooler and nq have no worker that could be started later: a first job that waits on a FIFO holds the
others until start(). Both keep a process for each waiting job; task-spooler can't keep more than about a
thousand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from . import install
from .driver import Driver, Feeder, Session, script
from .harness import Box


class ShellDriver(Driver):
    """A program from Debian."""

    program: ClassVar[str]
    package: ClassVar[str]

    def missing(self) -> str:
        return (
            "" if shutil.which(self.program) else f"{self.program} is not installed (Debian: {self.package})"
        )

    def version(self) -> str:
        return install.debian_version(self.package)


class _Lines(Session):
    """A program that takes one command a line: from a file that is loaded, or from a FIFO that a feeder
    writes.
    """

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._source = box.path / "commands"
        self._process: subprocess.Popen[str] | None = None

    @abstractmethod
    def command(self, slots: int) -> list[str]: ...

    def load(self, commands: Sequence[str]) -> None:
        self.write_lines(self._source.name, commands)

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        if not self._source.exists():
            os.mkfifo(self._source)
            # read and write: opening doesn't wait for a feeder, and no feeder's end is the end of the file
            source = os.open(self._source, os.O_RDWR)
        else:
            source = os.open(self._source, os.O_RDONLY)
        try:
            self._process = self.box.spawn([*wrap, *self.command(slots)], stdin=source, env=self.variables())
        finally:
            os.close(source)

    def exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        return Feeder(self.box, script("feed", "fifo", self._source))


class XargsSession(_Lines):
    def command(self, slots: int) -> list[str]:
        return ["xargs", f"-P{slots}", "-d", "\n", "-n1", "sh", "-c"]


class Xargs(ShellDriver):
    name = "xargs"
    program = "xargs"
    package = "findutils"
    keeps = "nothing"
    feeds = ("fifo",)
    note = "no queue, and keeps no result: the yardstick"

    def session(self, box: Box) -> Session:
        return XargsSession(box)


class ParallelSession(_Lines):
    def command(self, slots: int) -> list[str]:
        log = str(self.box.path / "joblog")
        return ["parallel", "--will-cite", f"-j{slots}", "--joblog", log]

    def variables(self) -> Mapping[str, str]:
        return {"PARALLEL_HOME": str(self.box.path / "parallel"), "PARALLEL_SHELL": "/bin/sh"}

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        (self.box.path / "parallel").mkdir(exist_ok=True)
        super().start(slots, workers=workers, until_empty=until_empty, wrap=wrap)


class Parallel(ShellDriver):
    name = "parallel"
    program = "parallel"
    package = "parallel"
    keeps = "nothing"
    feeds = ("fifo",)
    note = "with --joblog"

    def session(self, box: Box) -> Session:
        return ParallelSession(box)


class _Held(Session):
    """Jobs that would run at once wait behind one that reads a FIFO."""

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._holds: list[Path] = []

    def hold(self) -> str:
        path = self.box.path / f"hold{len(self._holds)}"
        os.mkfifo(path)
        self._holds.append(path)
        return f"read line < {shlex.quote(str(path))}"

    def release(self) -> None:
        for path in self._holds:
            path.write_text("go\n", encoding="utf-8")
        self._holds.clear()


class TaskSpoolerSession(_Held):
    def variables(self) -> Mapping[str, str]:
        return {"TS_SOCKET": str(self.box.path / "socket")}

    def open(self) -> None:
        self.box.run(["tsp", "-S", "1"], env=self.variables())

    def load(self, commands: Sequence[str]) -> None:
        lines = [shlex.join(self.enqueue_argv(command)) for command in [self.hold(), *commands]]
        self.box.run(["sh", self.write_lines("load.sh", lines)], env=self.variables())

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        self.box.run(["tsp", "-S", str(slots)], env=self.variables())
        self.release()

    def enqueue_argv(self, command: str) -> list[str]:
        return ["tsp", "sh", "-c", command]

    def status_argv(self) -> list[str]:
        return ["tsp", "-l"]

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        return Feeder(self.box, script("feed", "cli", "tsp", "sh", "-c"), self.variables())


class TaskSpooler(ShellDriver):
    name = "task-spooler"
    program = "tsp"
    package = "task-spooler"
    keeps = "nothing"
    measures = frozenset({"throughput", "latency", "idle", "startup"})
    feeds = ("cli",)
    most_queued = 900
    note = "900 jobs at most: it can't hold more connections than select() takes"

    def session(self, box: Box) -> Session:
        return TaskSpoolerSession(box)


class NqSession(_Held):
    """nq runs the jobs of a directory one after the other, so a slot is a directory of its own."""

    LANES = 2

    def open(self) -> None:
        for lane in range(self.LANES):
            self._lane(lane).mkdir()

    def _lane(self, lane: int) -> Path:
        return self.box.path / f"lane{lane}"

    def load(self, commands: Sequence[str]) -> None:
        held = [self.hold() for _ in range(self.LANES)]
        lines = [
            f"NQDIR={self._lane(n % self.LANES)} {shlex.join(self.enqueue_argv(command))}"
            for n, command in enumerate([*held, *commands])
        ]
        self.box.run(["sh", self.write_lines("load.sh", lines)])

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        self.release()

    def variables(self) -> Mapping[str, str]:
        return {"NQDIR": str(self._lane(0))}

    def enqueue_argv(self, command: str) -> list[str]:
        return ["nq", "-q", "sh", "-c", command]

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        return Feeder(
            self.box, script("feed", "cli", "nq", "-q", "sh", "-c"), {"NQDIR": str(self._lane(lane))}
        )


class Nq(ShellDriver):
    name = "nq"
    program = "nq"
    package = "nq"
    keeps = "nothing"
    measures = frozenset({"throughput", "latency", "startup"})
    feeds = ("cli",)
    note = "one job at a time by design: two directories stand for two slots"

    def session(self, box: Box) -> Session:
        return NqSession(box)


DRIVERS: tuple[Driver, ...] = (Xargs(), TaskSpooler(), Nq(), Parallel())
