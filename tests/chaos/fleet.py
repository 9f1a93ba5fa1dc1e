"""The workers of a run: real `queuectl worker start` processes, found and signalled by their own process ids."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.clock import Clock
from tests.support import environment

ACROSS_HOSTS = ("--heartbeat", "0.25", "--stale-after", "1.5", "--poll-interval", "0.1")
SETTINGS = ("--backoff-base", "1", "--backoff-max", "0.2", "--min-free", "1M", "--max-log", "1M",
            "--log-level", "debug")  # fmt: skip


class Fleet:
    """`directory` gets the workers' logs, and a file worker.<pid> for each that was started. `variables` are for their
    environment. With several `hosts` each worker pretends to be on one of them: then only heartbeats tell who lives.
    """

    def __init__(
        self, root: Path, directory: Path, durability: str, variables: Mapping[str, str] | None = None, hosts: int = 1
    ) -> None:
        self._root = root
        self.clock = Clock(directory / "clock")
        self._directory = directory
        self._durability = durability
        self.variables = dict(variables or {})
        self._lock = threading.Lock()
        self._workers: list[subprocess.Popen[bytes]] = []
        self.hosts = hosts
        self.log = directory / "workers.log"
        self.started = 0
        self.exit_codes: list[int] = []

    def start(self, slots: int, *more: str) -> subprocess.Popen[bytes]:
        command = [
            *self.clock.command, "--spool", str(self._root), "worker", "start", "--count", str(slots),
            "--durability", self._durability, *SETTINGS, *more,
        ]  # fmt: skip
        variables = dict(self.variables)
        if self.hosts > 1:
            command += ACROSS_HOSTS
            variables["QUEUECTL_PRETEND_HOST"] = f"host{self.started % self.hosts}"
        with self.log.open("ab") as output:
            worker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(**variables),
                start_new_session=True,
            )  # fmt: skip
        (self._directory / f"worker.{worker.pid}").touch()
        with self._lock:
            self._workers.append(worker)
        self.started += 1
        return worker

    def living(self) -> list[subprocess.Popen[bytes]]:
        with self._lock:
            for worker in [worker for worker in self._workers if worker.poll() is not None]:
                self._workers.remove(worker)
                self.exit_codes.append(worker.returncode)
            return list(self._workers)

    def pick(self, place: float) -> subprocess.Popen[bytes] | None:
        living = self.living()
        return living[int(place * len(living))] if living else None

    def signal(self, worker: subprocess.Popen[bytes], number: int) -> None:
        """Send a signal, unless it has ended (its number is still ours until it has been waited for)."""
        if worker.poll() is None:
            worker.send_signal(number)

    def end_all(self, number: int, limit: float) -> list[int]:
        """Wake, signal and bury all; the ids of those that didn't end within `limit` seconds, and were killed."""
        late = []
        for worker in self.living():
            self.signal(worker, number)
            self.signal(worker, signal.SIGCONT)
        for worker in self.living():
            try:
                worker.wait(limit)
            except subprocess.TimeoutExpired:
                late.append(worker.pid)
                worker.kill()
                worker.wait()
        self.living()
        return late

    def tracebacks(self) -> list[str]:
        """Bugs that showed themselves: a worker never prints a traceback."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [f"a worker printed a traceback: {' | '.join(lines[number:number + 40])}"
                for number, line in enumerate(lines) if line.startswith("Traceback")]  # fmt: skip


def kill_strays(root: Path) -> None:
    """Leave no process behind, whatever the run has found."""
    mark = b"\0QUEUECTL_SPOOL=" + os.fsencode(root) + b"\0"
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environ = b"\0" + Path(f"/proc/{name}/environ").read_bytes()
                if mark in environ and b"\0QUEUECTL_CLAIM=" in environ:
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                continue
