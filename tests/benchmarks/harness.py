"""The places and processes of a benchmark: one Bench for all of it, one Box for each run.

Creating files shortly after many were deleted is slow on ext4. So every Box has a fresh directory, under
a parent with `chattr +T` (which spreads its subdirectories over the disk), and all are removed together
at the end. A Box that closes ends every process that was started in it, daemons too. SIGINT, SIGTERM and
SIGHUP take the same way out and are ignored while it is taken; only SIGKILL of this program leaves
anything behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from . import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """A run came to nothing: a peer ended with an error or didn't get done in time. The benchmark goes on."""


def say(text: str) -> None:
    """Tell the person who waits; the report alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


class Bench:
    """Owns the parent directory, and what must be true of this process, until the end."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._count = 0
        self._open = 0
        self._stamp: Path | None = None
        self.path = Path()

    def __enter__(self) -> Bench:
        processes.become_subreaper()
        self._handlers = [signal.signal(number, signal.SIG_IGN) for number in SIGNALS]
        self.path = Path(tempfile.mkdtemp(prefix="queuectl-bench-", dir=self._parent))
        if shutil.which("chattr"):  # refused by file systems that don't know it, and then not needed
            subprocess.run(["chattr", "+T", self.path], stderr=subprocess.DEVNULL, check=False)
        for number in SIGNALS:
            signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        try:
            processes.kill_all(processes.descendants)
            processes.reap()
        finally:
            say("removing the benchmark's directories")
            subprocess.run(["rm", "-rf", "--", self.path], check=False)
            for number, handler in zip(SIGNALS, self._handlers, strict=True):
                signal.signal(number, handler)

    def box(self) -> Box:
        self._count += 1
        path = self.path / f"{self._count:05}"
        path.mkdir()
        self._open += 1
        return Box(path, self._closed)

    def _closed(self) -> None:
        self._open -= 1
        if self._open == 0:  # else a zombie may be one that another box still waits for
            processes.reap()

    def stamp(self) -> Path:
        """The program that a latency job runs: it writes CLOCK_MONOTONIC as it begins. Compiled when first
        asked for.
        """
        if self._stamp is None:
            target = self.path / "stamp"
            source = Path(__file__).with_name("stamp.c")
            for static in (["-static"], []):
                command = ["cc", "-O2", *static, "-o", str(target), str(source)]
                try:
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                except FileNotFoundError:
                    raise Failed("latency needs a C compiler (cc)") from None
                if done.returncode == 0:
                    break
            else:
                raise Failed(f"cc: {done.stderr.strip()[-300:]}")
            self._stamp = target
        return self._stamp


class Box:
    """One run: a fresh directory, and the processes started for it, known by MARK in their environment.

    Boxes may be nested (the reference of a sample runs while the sample's queue is held): each ends its
    own processes.
    """

    MARK = "BENCHMARK_BOX"
    SETTINGS = ("PYTHON", "QUEUECTL_", "TS_", "NQ", "PARALLEL")
    """Beginnings of the variables that tune what is measured, or the interpreter."""

    def __init__(self, path: Path, closed: Callable[[], None]) -> None:
        self.path = path
        self._closed = closed
        self._started: list[subprocess.Popen[str]] = []
        self._errors = path / "stderr"

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """This program's environment without the user's own settings, temporary files inside the box."""
        place = str(self.path)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(self.SETTINGS)}
        return {**inherited, "TMPDIR": place, self.MARK: place, **(extra or {})}

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a process in the background; what it says on stderr is kept for the message if it fails."""
        with open(self._errors, "a", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [str(word) for word in argv],
                env=self.environment(env),
                cwd=self.path,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] = subprocess.DEVNULL,
        timeout: float = 900.0,
    ) -> str:
        """Run to the end and return stdout. Output goes through a file: a daemon that keeps it open must
        not hold us.
        """
        with tempfile.TemporaryFile("w+", dir=self.path, encoding="utf-8") as output:
            process = self.spawn(argv, env=env, stdin=stdin, stdout=output)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise Failed(f"{argv[0]}: not done after {timeout:.0f} s") from None
            self._started.remove(process)
            if code != 0:
                raise Failed(f"{argv[0]}: exit code {code}. {self.complaint()}")
            output.seek(0)
            return output.read()

    def complaint(self) -> str:
        """The last that any process of this box said on stderr."""
        try:
            return self._errors.read_text(encoding="utf-8", errors="replace").strip()[-400:]
        except FileNotFoundError:
            return ""

    def serve(self, argv: Callable[[int], Sequence[str | Path]], attempts: int = 3) -> int:
        """Start a server on a free loopback port and return the port once it answers.

        Somebody else may take the port between our asking for a free one and the server's use of it: then
        again.
        """
        for _ in range(attempts):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            server = self.spawn(argv(port))
            deadline = time.monotonic() + 10
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    return port
                except OSError:
                    time.sleep(0.01)
        raise Failed(f"{argv(0)[0]}: doesn't answer. {self.complaint()}")

    def close(self) -> None:
        """Ask the started processes to end, then end all of the box."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process in self._started:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass
        self._started.clear()
        processes.kill_all(self.living)
        self._closed()

    def living(self) -> list[int]:
        """The processes of this box."""
        return processes.marked(f"{self.MARK}={self.path}")
