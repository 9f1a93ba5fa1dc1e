"""Helpers for tests on real directories and real processes. No test may sleep: `until` waits for a condition."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from queuectl.core.backoff import Policy
from queuectl.core.job import settled
from queuectl.core.names import Claim, Record
from queuectl.core.times import next_stamp
from queuectl.disk import DIRECTORIES
from queuectl.lease import ROLE_CLI, Census, Lease
from queuectl.recover import Recovery
from queuectl.spool import Entry, Settlement, Spool

REPOSITORY = Path(__file__).resolve().parents[1]
STATES = ("pending", "processing", "completed", "failed", "dead")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_T = TypeVar("_T")


def until(condition: Callable[[], _T], limit: float = 10.0, what: str = "") -> _T:
    """Wait until `condition` gives something true, and return that. Fails after `limit` seconds, and says what it
    waited for."""
    deadline = time.monotonic() + limit
    pause = 0.002
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() >= deadline:
            name = what or getattr(condition, "__doc__", "") or getattr(condition, "__qualname__", repr(condition))
            pytest.fail(f"waited {limit:g} s for: {name}; it is still {found!r}", pytrace=True)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


# -- looking at a spool -----------------------------------------------------------------------------------------------


def root_of(spool: Spool | Path | str) -> str:
    """The path of a spool, however it is given."""
    return spool.root if isinstance(spool, Spool) else os.fspath(spool)


def listing(spool: Spool | Path | str, directory: str) -> list[str]:
    """The names in one of the spool's directories, sorted."""
    return sorted(os.listdir(os.path.join(root_of(spool), directory)))


def places(spool: Spool | Path | str, job_id: str) -> list[str]:
    """Where files of a job lie, as state/name. Read with `ls`, not with queuectl."""
    found = []
    for state in STATES:
        for name in listing(spool, state):
            stem = name.removesuffix(".json").partition("@")[0]
            if name.endswith(".json") and (stem == job_id or stem.endswith(f".{job_id}")):
                found.append(f"{state}/{name}")
    return found


def state_of(spool: Spool | Path | str, job_id: str) -> str:
    """The one state that a job is in; fails if it is in none or in two, and stays so: one that moves while the states
    are listed is seen in both, or in neither."""
    for _ in range(10):
        found = places(spool, job_id)
        if len(found) == 1:
            break
    assert len(found) == 1, f"job {job_id} should have one file, but has {found}"
    return found[0].partition("/")[0]


def body_of(spool: Spool | Path | str, job_id: str) -> dict[str, Any]:
    """The JSON of a job, wherever its one file lies."""
    (place,) = places(spool, job_id)
    body = json.loads(Path(root_of(spool), place).read_bytes())
    assert isinstance(body, dict)
    return body


def leftovers(spool: Spool | Path | str) -> list[str]:
    """What lies in .tmp/: nothing, once all is done and swept."""
    return listing(spool, ".tmp")


def whole_tree(spool: Spool | Path | str) -> dict[str, list[str]]:
    """All names in all directories of a spool."""
    return {directory: listing(spool, directory) for directory in DIRECTORIES}


def mode(path: str | Path) -> int:
    """The permission bits of a file."""
    return os.stat(path).st_mode & 0o7777


def drop(spool: Spool | Path | str, name: str | bytes, content: bytes | str | dict[str, Any]) -> bytes:
    """Drop a file into pending/ as a foreign program does; its path."""
    if isinstance(content, dict):
        content = json.dumps(content)
    path = os.path.join(os.fsencode(root_of(spool)), b"pending", os.fsencode(name))
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def adopt_all(spool: Spool) -> list[Entry]:
    """What a worker does with dropped files after a scan, also with those that somebody who died has taken; the
    jobs."""
    dropped = [entry.name for entry in spool.entries(["pending"]) if not entry.id]
    return [job for name in dropped if (job := spool.adopt(name, time.time_ns()))]


# -- real processes ---------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """An environment in which `python -m queuectl` is this repository's, whatever the tests' own is."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", **more}


def queuectl(spool: Spool | Path | str, *arguments: str, limit: float = 30.0, **more: Any) -> Any:
    """Run one command to its end; a CompletedProcess with text."""
    command = [sys.executable, "-m", "queuectl", "--spool", root_of(spool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment(**more), check=False)


def python(code: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a Python process that runs `code` with queuectl importable; its stdout and stderr are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment(**more),
    )  # fmt: skip


def at_once(code: str, argument_lists: Sequence[Sequence[str]], limit: float = 60.0) -> list[str]:
    """Start several Python processes, let them go at one moment, and return what each printed.

    `code` must call `input()` when it is ready: that is the moment. Whatever goes wrong in one fails the test.
    """
    processes = [python("print('ready', flush=True)\n" + code, *arguments) for arguments in argument_lists]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        printed = []
        for process in processes:
            out, err = process.communicate(timeout=limit)
            assert (process.returncode, err) == (0, ""), err
            printed.append(out)
        return printed
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


class WorkerProcess:
    """A real `queuectl worker start`. `log` is the file that its stdout and stderr go to."""

    def __init__(self, spool: Spool | Path | str, *arguments: str, **more: str) -> None:
        root = Path(root_of(spool))
        self.log = root.parent / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "queuectl", "--spool", str(root), "worker", "start", *arguments]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(**more)
            )
        self._leases = root / "workers"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether it has registered: a lease with its process id lies in workers/."""
        assert self.process.poll() is None, f"the worker has ended: {self.said}"
        return any(f"-{self.pid}-" in name and name.endswith(".json") for name in os.listdir(self._leases))

    def kill(self) -> None:
        """kill -9, and bury."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self, limit: float = 15.0) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the worker didn't end within {limit:g} s of SIGTERM; it said: {self.said}")


@contextmanager
def worker(spool: Spool | Path | str, *arguments: str, **more: str) -> Iterator[WorkerProcess]:
    """A worker process that is ready, and is killed in the end if it still runs."""
    process = WorkerProcess(spool, *arguments, **more)
    try:
        until(process.is_ready, what="the worker registers in workers/")
        yield process
    finally:
        process.kill()


# -- leases and recovery in this process ------------------------------------------------------------------------------


def die(lease: Lease) -> None:
    """What the kernel does with a lease when its holder is killed: close it. Its file stays."""
    os.close(lease._fd)
    lease._fd = -1


def recover(spool: Spool, *, stale_after: float = 120.0, policy: Policy | None = None) -> list[str]:
    """Recover with a fresh lease, as a worker that starts does; what it said."""
    said: list[str] = []
    with Lease(spool, ROLE_CLI) as lease:
        census = Census(spool, stale_after, lease.worker)
        recovery = Recovery(spool, lease, lambda: policy or Policy(), lambda level, text: said.append(text))
        recovery.run(lambda: census.look(time.monotonic()), time.time_ns())
    return said


def age(spool: Spool) -> None:
    """Make what lies in .tmp/ look, to this object, as if nobody had touched it for years. (Nobody can set a ctime.)"""
    old = {spool.dir(".tmp") + name for name in listing(spool, ".tmp")}
    true_age = spool._age
    setattr(spool, "_age", lambda path: 1e9 if path in old else true_age(path))  # noqa: B010


def only(spool: Spool, state: str = "pending") -> Entry:
    """The one job in a state."""
    (entry,) = [entry for entry in spool.entries([state]) if entry.id]
    return entry


def run_once(
    spool: Spool, lease: Lease, job_id: str, state: str = "completed", spares: list[str] | None = None
) -> None:
    """Claim a waiting job and settle it, as a worker does, without running anything."""
    entry = spool.find(job_id)
    assert entry is not None
    claim = spool.claim(entry, lease.worker, lease.next())
    assert claim is not None
    assert settle(spool, claim, state, spares) == Settlement.PUBLISHED


def settlement(spool: Spool, claim: Claim, state: str) -> Settlement:
    """The settlement that brings a claim to `state`."""
    job = spool.read_claim(claim)
    assert job is not None
    attempts = claim.attempts - (state == "pending")
    later = next_stamp(claim.not_before) if state in ("pending", "failed") else ""
    record = Record(claim, state, later, attempts if later else 0)
    entry = {"attempt": job.attempt, "reason": "a test"}
    return Settlement(record, settled(job, claim, attempts, time.time_ns(), entry))


def settle(spool: Spool, claim: Claim, state: str, spares: list[str] | None = None) -> int:
    """Settle a claim; the step that it reached. Without `spares` to keep, nothing is recycled."""
    one = settlement(spool, claim, state)
    own: list[str] = []
    spool.settle([one], own if spares is None else spares)
    for name in own:
        spool.remove_temporary(name)
    return one.step
