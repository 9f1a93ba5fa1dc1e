"""The command line is tested as its users meet it: the installed command, in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from queuectl.spool import Spool
from tests.support import REPOSITORY, WorkerProcess, until, worker

INSTALLED = Path(sys.executable).parent / "queuectl"
COMMAND = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "queuectl"]
LIMIT = 60.0
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # needs no time zone database
ID = r"[0-9a-z]{18}"  # a generated id


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Queuectl:
    """Runs the command in a home of its own. `spool` is the spool that it finds in $QUEUECTL_SPOOL."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.spool = Spool(home / "spool", durability="none")
        self.environ = {
            "HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": BERLIN,
            "PYTHONWARNINGS": "error", "QUEUECTL_SPOOL": self.spool.root, "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip

    def __call__(
        self, *arguments: str | bytes, stdin: str | bytes | None = None, cwd: Path | None = None, **environ: Any
    ) -> Result:
        """Run one command line; nothing is on stdin if nothing is said."""
        done = subprocess.run(
            [*COMMAND, *arguments], input=stdin.encode() if isinstance(stdin, str) else stdin or b"",
            capture_output=True, timeout=LIMIT, env={**self.environ, **environ}, cwd=cwd or self.home, check=False,
        )  # fmt: skip
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: str, **more: Any) -> str:
        """What a command prints that succeeds, and has nothing to say besides."""
        result = self(*arguments, **more)
        assert (result.code, result.err) == (0, ""), result
        return result.out

    def json(self, *arguments: str, **more: Any) -> Any:
        """What a command prints with --json."""
        return json.loads(self.ok(*arguments, "--json", **more))

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command, with pipes."""
        return subprocess.Popen(
            [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environ, cwd=self.home, **more,
        )  # fmt: skip

    def on_terminal(
        self, *arguments: str, typed: str = "", columns: int = 80, once: tuple[str, Callable[[], object]] | None = None,
        **environ: str,
    ) -> Result:  # fmt: skip
        """Run one command line on a terminal; stdout and stderr come together in `out`. `once` is a text, and what is
        to happen when it has been shown."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, cwd=self.home,
            env={**self.environ, "TERM": "xterm", **environ}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        if typed:
            os.write(ours, typed.encode())
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
                if once is not None and once[0].encode() in seen:
                    once[1]()
                    once = None
        except OSError:  # the other side is closed
            pass
        os.close(ours)
        return Result(process.wait(LIMIT), seen.decode(errors="replace").replace("\r\n", "\n"), "")

    def record(self, job_id: str) -> dict[str, Any]:
        """A job's record, as its file says it."""
        entry = self.spool.find(job_id)
        assert entry is not None, job_id
        body = json.loads(Path(self.spool.path_of(entry)).read_bytes())
        assert isinstance(body, dict)
        return body

    def state(self, job_id: str) -> str:
        """The state that a job is in, or "" if it is between two."""
        entry = self.spool.find(job_id)
        return entry.state if entry else ""

    def work(self) -> None:
        """Run all that waits, to its end."""
        result = self("worker", "start", "--until-empty", "--log-level=warning", "--count=4")
        assert result.code == 0, result

    def await_state(self, job_id: str, *states: str) -> None:
        until(lambda: self.state(job_id) in states, LIMIT, f"{job_id} is {' or '.join(states)}")


@pytest.fixture
def queue(tmp_path: Path) -> Queuectl:
    """The command, and a new spool."""
    return Queuectl(tmp_path)


@pytest.fixture
def at_work(queue: Queuectl) -> Iterator[WorkerProcess]:
    """A worker of two slots on the `queue`'s spool."""
    with worker(queue.spool, "--count", "2", "--stop-grace", "0") as process:
        yield process


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is as the pattern says; the assertion shows both."""
    return re.fullmatch(pattern, text, re.DOTALL) is not None
