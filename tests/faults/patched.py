"""Real workers in which one system call fails, blocks or lies, as the kernel might."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from queuectl.spool import Spool
from tests.support import WorkerProcess, environment, until

_MAIN = "\nimport sys\nfrom queuectl.cli import main\nsys.exit(main(sys.argv[1:]))\n"
# Waits for a file, which the test makes: a call that takes as long as the test wants.
GATE = """
import os, time
def gate(path):
    open(path + ".reached", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)
"""


class Patched(WorkerProcess):
    """`queuectl worker start` in a Python that has executed `program` before. `options` are Popen's."""

    def __init__(self, spool: Spool, program: str, *arguments: str, variables: dict[str, str], **options: Any) -> None:
        root = Path(spool.root)
        self.log = root.parent / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-c", GATE + program + _MAIN, "--spool", spool.root, "worker", "start", *arguments]
        with self.log.open("wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            self.process = subprocess.Popen(command, env=environment(**variables), **streams | options)
        self._leases = root / "workers"


@contextmanager
def patched(spool: Spool, program: str, *arguments: str, variables: dict[str, str] | None = None,
            **options: Any) -> Iterator[Patched]:
    """Such a worker, which is ready, and is killed in the end."""
    process = Patched(spool, program, *arguments, variables=variables or {}, **options)
    try:
        until(process.is_ready, what="the worker registers in workers/")
        yield process
    finally:
        process.kill()


def completes(spool: Spool, job_id: str, limit: float = 20.0) -> None:
    until(lambda: spool.has_ended(job_id, "completed"), limit, what=f"{job_id} completes")


def drops(spool: Spool, name: str) -> None:
    """A job that is dropped now runs, and soon: not only at the slow scan."""
    drafted = Path(spool.root).parent / name
    drafted.write_text(f'{{"command": "true", "id": "{name}"}}')
    drafted.rename(spool.dir("pending") + f"{name}.json")
    completes(spool, name, 10)
