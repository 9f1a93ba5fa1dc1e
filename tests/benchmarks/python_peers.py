"""The peers that are Python packages, and the servers that some need: huey, dirq, litequeue, beanstalkd,
rq, celery.

Each runs as programs of scripts/ in the peers' own interpreter. dirq, litequeue and beanstalkd bring no
worker: theirs is the shortest loop that keeps the peer's promises (scripts/common.py), one process a
slot. The others run with their own worker's defaults, except for the number of slots.
"""

from __future__ import annotations

import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from . import install
from .driver import SCRIPT_VARIABLES, SCRIPTS, Driver, Feeder, Session, script
from .harness import Box


class PythonDriver(Driver):
    """A package from PyPI, perhaps with a server from Debian."""

    module: ClassVar[str]
    """The program in scripts/ that speaks to it."""
    packages: ClassVar[tuple[str, ...]]
    """As on PyPI; all are imported by the same names."""
    server: ClassVar[str] = ""
    """A program that it needs; the Debian package is called the same."""
    measures = frozenset({"throughput", "latency", "idle", "enqueue", "startup"})
    feeds = ("api",)
    bulk: ClassVar[tuple[str, ...]] = ("api",)

    def lacks_server(self) -> bool:
        return bool(self.server) and shutil.which(self.server) is None

    def missing(self) -> str:
        if self.lacks_server():
            return f"{self.server} is not installed (Debian: {self.server})"
        if install.python_with(*self.packages) is None:
            return f"{', '.join(self.packages)} from PyPI not installed (--install does it)"
        return ""

    def python(self) -> str:
        python = install.python_with(*self.packages)
        assert python is not None, "asked for a peer that is missing"
        return python

    def interpreter(self) -> str:
        return self.python()

    def version(self) -> str:
        found = install.versions(self.python(), self.packages)
        return f"{self.server} {install.debian_version(self.server)}, {found}" if self.server else found


class PythonSession(Session):
    """Everything but the worker, which differs."""

    can_end: ClassVar[bool] = True
    """Whether a worker can end by itself when the queue is empty."""

    def __init__(self, box: Box, driver: PythonDriver) -> None:
        super().__init__(box)
        self.driver = driver
        self.workers: list[subprocess.Popen[str]] = []
        self._ends = False

    def queue(self) -> Path:
        return self.box.path / "queue"

    def variables(self) -> Mapping[str, str]:
        return {**SCRIPT_VARIABLES, "BENCH_QUEUE": str(self.queue())}

    def program(self, *words: str | Path) -> list[str]:
        return script(self.driver.module, *words, python=self.driver.python())

    @abstractmethod
    def worker_argvs(self, slots: int, until_empty: bool) -> list[list[str]]: ...

    def load(self, commands: Sequence[str]) -> None:
        self.enqueue_bulk(commands, self.driver.bulk[-1])

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        self._ends = until_empty and self.can_end
        for argv in self.worker_argvs(slots * workers, until_empty):
            self.workers.append(self.box.spawn([*wrap, *argv], env=self.variables()))

    def exited(self) -> bool | None:
        # a worker that ended although it should run on has failed, whatever its exit code
        ended = [worker.poll() is not None for worker in self.workers]
        if self._ends:
            return all(ended)
        return True if all(ended) else None

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        return Feeder(self.box, self.program("feed"), self.variables())

    def enqueue_argv(self, command: str) -> list[str]:
        return self.program("put", command)

    def enqueue_bulk(self, commands: Sequence[str], way: str) -> float:
        action = "load" if way == "api" else "load-all"
        return float(
            self.box.run(self.program(action, self.write_lines("load", commands)), env=self.variables())
        )


class LoopSession(PythonSession):
    """A loop of scripts/common.py for each slot."""

    def worker_argvs(self, slots: int, until_empty: bool) -> list[list[str]]:
        return [self.program("work", *(["--until-empty"] if until_empty else []))] * slots


class Dirq(PythonDriver):
    name = "dirq"
    module = "dirq_queue"
    packages = ("dirq",)
    keeps = "a crash"
    note = "two bare loops that keep neither output nor result"

    def session(self, box: Box) -> Session:
        return LoopSession(box, self)


class Litequeue(PythonDriver):
    name = "litequeue"
    module = "litequeue_queue"
    packages = ("litequeue",)
    keeps = "a crash"
    bulk = ("api", "batch")
    note = "two bare loops; SQLite in WAL mode, synchronous=NORMAL"

    def session(self, box: Box) -> Session:
        return LoopSession(box, self)


class BeanstalkSession(LoopSession):
    def open(self) -> None:
        log = self.box.path / "binlog"
        log.mkdir()
        keep = ["-b", str(log)] if self.driver.keeps != "nothing" else []
        self._port = self.box.serve(lambda port: ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), *keep])

    def variables(self) -> Mapping[str, str]:
        return {**SCRIPT_VARIABLES, "BENCH_PORT": str(self._port)}


class Beanstalkd(PythonDriver):
    name = "beanstalkd"
    module = "beanstalk_queue"
    packages = ("greenstalk",)
    server = "beanstalkd"
    keeps = "a crash"
    note = "with its log (-b); two bare loops that keep neither output nor result"

    def session(self, box: Box) -> Session:
        return BeanstalkSession(box, self)


class BeanstalkdMemory(Beanstalkd):
    name = "beanstalkd-memory"
    keeps = "nothing"
    note = "its default, without a log; two bare loops that keep neither output nor result"


class HueySession(PythonSession):
    can_end = False

    def variables(self) -> Mapping[str, str]:
        return {
            **super().variables(),
            "BENCH_STORAGE": "file" if isinstance(self.driver, HueyFile) else "sqlite",
        }

    def worker_argvs(self, slots: int, until_empty: bool) -> list[list[str]]:
        consumer = "huey.bin.huey_consumer"
        return [[self.driver.python(), "-m", consumer, f"{SCRIPTS}.huey_queue.huey", "-w", str(slots), "-q"]]


class HueyFile(PythonDriver):
    name = "huey-file"
    module = "huey_queue"
    packages = ("huey",)
    keeps = "a crash"
    pause = 1.0
    note = "polls after 0.1 s, then ever later, up to 10 s"

    def session(self, box: Box) -> Session:
        return HueySession(box, self)


class HueySqlite(HueyFile):
    name = "huey-sqlite"


class RqSession(PythonSession):
    def open(self) -> None:
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", str(self.box.path)]
        self._port = self.box.serve(lambda port: ["redis-server", "--port", str(port), *options])

    def variables(self) -> Mapping[str, str]:
        return {**SCRIPT_VARIABLES, "BENCH_PORT": str(self._port)}

    def worker_argvs(self, slots: int, until_empty: bool) -> list[list[str]]:
        url = f"redis://127.0.0.1:{self._port}"
        burst = ["--burst"] if until_empty else []
        return [[self.driver.python(), "-m", "rq.cli", "worker", "-u", url, "--quiet", *burst]] * slots


class Rq(PythonDriver):
    name = "rq"
    module = "rq_queue"
    packages = ("rq", "redis")
    server = "redis-server"
    keeps = "a crash"
    bulk = ("api", "batch")
    note = "redis with its append-only file; a worker process for each slot"

    def session(self, box: Box) -> Session:
        return RqSession(box, self)


class CelerySession(PythonSession):
    can_end = False

    def worker_argvs(self, slots: int, until_empty: bool) -> list[list[str]]:
        app = f"{SCRIPTS}.celery_queue"
        return [[self.driver.python(), "-m", "celery", "-A", app, "worker", "-c", str(slots), "-l", "ERROR"]]


class Celery(PythonDriver):
    name = "celery"
    module = "celery_queue"
    packages = ("celery",)
    keeps = "a crash"
    pause = 1.0
    note = "file transport, no result backend; polls every second"

    def session(self, box: Box) -> Session:
        return CelerySession(box, self)


DRIVERS: tuple[PythonDriver, ...] = (
    HueyFile(),
    HueySqlite(),
    Dirq(),
    Litequeue(),
    Beanstalkd(),
    BeanstalkdMemory(),
    Rq(),
    Celery(),
)
