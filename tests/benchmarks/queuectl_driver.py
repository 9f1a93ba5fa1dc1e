"""queuectl itself, with both values of `durability`, through its command line, its Python API and its
directories.

The volume measures need more than a peer offers: spools with a million completed or scheduled jobs.
Completed jobs are copies of a real record under other ids, because running a million would take an hour.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from . import install, processes
from .driver import SCRIPT_VARIABLES, Driver, Feeder, Session, script
from .harness import Box, Failed, say


@functools.cache
def program() -> str | None:
    """The console script of a plain installation; None if there can be none."""
    try:
        return str(install.queuectl())
    except (subprocess.CalledProcessError, OSError) as error:
        say(f"queuectl couldn't be installed: {error}")
        return None


class QueuectlSession(Session):
    def __init__(self, box: Box, durability: str) -> None:
        super().__init__(box)
        self._durability = durability
        self._workers: list[subprocess.Popen[str]] = []
        self._ends = False
        self._wrapped = False
        self.spool = box.path / "spool"

    def argv(self, *words: str) -> list[str]:
        found = program()
        assert found is not None, "asked for although missing"
        return [found, "--spool", str(self.spool), *words]

    def open(self) -> None:
        if self._durability == "fsync":  # the default: a user has no config.toml then
            self.box.run(self.argv("init"))
        else:
            self.set_durability(self._durability)

    def set_durability(self, value: str) -> None:
        self.box.run(self.argv("config", "set", "durability", value))

    def load(self, commands: Sequence[str]) -> None:
        self.box.run(self.argv("enqueue", "--batch", str(self.write_lines("batch", commands))), timeout=1800)

    def start(
        self, slots: int, *, workers: int = 1, until_empty: bool = False, wrap: Sequence[str] = ()
    ) -> None:
        self._ends = until_empty
        self._wrapped = bool(wrap)
        words = ["worker", "start", "--count", str(slots), *(["--until-empty"] if until_empty else [])]
        for number in range(workers):
            prefix = [word.replace("{n}", str(number)) for word in wrap]
            self._workers.append(self.box.spawn([*prefix, *self.argv(*words)]))

    def exited(self) -> bool | None:
        if any(worker.poll() for worker in self._workers):  # not None and not 0
            raise Failed(f"a worker failed. {self.box.complaint()}")
        ended = all(worker.poll() is not None for worker in self._workers)
        return ended if self._ends else True if ended else None

    def stop(self) -> None:
        for worker in self._workers:
            # strace keeps SIGTERM from itself, so the worker below it must be told
            pid = (processes.descendants(worker.pid) or [worker.pid])[0] if self._wrapped else worker.pid
            os.kill(pid, signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                raise Failed("a worker doesn't drain within 60 s") from None
        self._workers.clear()

    def feeder(self, way: str, lane: int = 0) -> Feeder:
        if way == "cli":
            # by the shell, because a job of one argument after "--" would be a program's name
            return Feeder(self.box, script("feed", "cli", *self.argv("enqueue", "--", "/bin/sh", "-c")))
        if way == "drop":
            return Feeder(self.box, script("feed", "drop", str(self.spool)))
        return Feeder(self.box, script("queuectl_queue", "feed"), self._api_variables())

    def _api_variables(self) -> Mapping[str, str]:
        return {**SCRIPT_VARIABLES, "BENCH_QUEUE": str(self.spool)}

    def enqueue_argv(self, command: str) -> list[str]:
        return self.argv("enqueue", "--", "/bin/sh", "-c", command)

    def status_argv(self) -> list[str]:
        return self.argv("status")

    def enqueue_bulk(self, commands: Sequence[str], way: str) -> float:
        words = ["load", str(self.write_lines("load", commands))]
        if way == "api":
            return float(self.box.run(script("queuectl_queue", *words), env=self._api_variables()))
        timed = script("timed", *self.argv("enqueue", "--batch", words[1]))
        return float(self.box.run(timed, env=SCRIPT_VARIABLES, timeout=1800))

    def failed_renames(self) -> int | None:
        """Lost races as the workers themselves count them, where `status --json` says so; else strace must
        count.
        """
        counters = json.loads(self.box.run(self.argv("status", "--json"))).get("counters", {})
        value = counters.get("failed_renames")
        return value if isinstance(value, int) else None

    def load_scheduled(self, count: int) -> None:
        """Jobs for tomorrow."""
        tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        line = json.dumps({"command": "true", "run_at": tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ")})
        self.load([line] * count)

    def fabricate_completed(self, count: int) -> str:
        """Fill completed/ with copies of a real record; the id of one of them."""
        self.load(["true"])
        self.start(1, until_empty=True)
        for worker in self._workers:
            worker.wait(60)
        self._workers.clear()
        folder = self.spool / "completed"
        original = next(folder.glob("*.json"))
        content = original.read_bytes()
        real = original.stem.encode()
        for number in range(count - 1):
            name = f"bench-{number:07}"
            with open(folder / f"{name}.json", "wb") as stream:
                stream.write(content.replace(real, name.encode()))
        return original.stem


class Queuectl(Driver):
    name = "queuectl"
    keeps = "power loss"
    measures = frozenset(
        {"throughput", "latency", "idle", "enqueue", "startup", "backlog", "contention", "queries"}
    )
    feeds = ("cli", "drop", "api")
    bulk = ("api", "batch")
    durable = True
    durability: ClassVar[str] = "fsync"

    def missing(self) -> str:
        return "" if program() else "queuectl could not be installed"

    def version(self) -> str:
        found = program()
        words = [found or "", "--version"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()

    def interpreter(self) -> str:
        return str(Path(program() or "").with_name("python"))

    def session(self, box: Box) -> QueuectlSession:
        return QueuectlSession(box, self.durability)


class QueuectlNone(Queuectl):
    name = "queuectl-none"
    keeps = "a crash"
    durable = False
    durability = "none"
    note = 'durability = "none"'


DRIVERS: tuple[Queuectl, ...] = (Queuectl(), QueuectlNone())
