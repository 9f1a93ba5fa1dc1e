"""What /proc says about processes, and the end of those that this program started.

The program makes itself a subreaper, so that a daemon that a peer starts becomes its child instead of
init's: all that a run started is found by walking down from this process. Nothing else is ever signalled.
A process that goes away while it is being looked at counts as nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Usage:
    """What a group of processes has used so far: CPU seconds, sleeps it was woken from, and its memory now
    in MiB.
    """

    cpu: float
    wakeups: int
    pss: float


def become_subreaper() -> None:
    """Adopt orphaned descendants; without it a daemonized peer would escape us."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(errno)}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def descendants(root: int | None = None) -> list[int]:
    """The living processes below `root` (this process, if nothing is said), zombies not counted."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(
                    int(name) if fields[0] not in "ZX" else -int(name)
                )
    found: list[int] = []
    queue = [os.getpid() if root is None else root]
    while queue:
        for pid in children.get(queue.pop(), []):
            queue.append(abs(pid))
            if pid > 0:
                found.append(pid)
    return found


def marked(mark: str) -> list[int]:
    """Those of our descendants that have `mark` ("NAME=value") in their environment: it is inherited by
    daemons too.
    """
    entry = mark.encode()
    return [pid for pid in descendants() if entry in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def kill_all(find: Callable[[], list[int]], patience: float = 10.0) -> None:
    """SIGKILL what `find` finds; again, until there is nothing, because a process may fork meanwhile."""
    deadline = time.monotonic() + patience
    while living := find():
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes that don't end after SIGKILL: {living}")
        time.sleep(0.005)


def reap() -> None:
    """Collect the zombies that became ours. Call it only when every Popen object has been waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _wakeups(pid: int) -> int:
    total = 0
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for thread in threads:
        for line in _read(f"/proc/{pid}/task/{thread}/status").splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def _cpu(pid: int) -> float:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # user and system time, its own and that of the children that it waited for
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _pss(pid: int) -> float:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def usage(pids: Iterable[int]) -> Usage:
    """The sums over `pids`."""
    pids = list(pids)
    return Usage(sum(map(_cpu, pids)), sum(map(_wakeups, pids)), sum(map(_pss, pids)))


def wait_until_quiet(timeout: float = 60.0, share: float = 0.05) -> None:
    """Return when our descendants have used less than `share` of a core for half a second: they have
    started up.
    """
    deadline = time.monotonic() + timeout
    quiet = 0
    before = sum(map(_cpu, descendants()))
    while quiet < 2:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the workers are still busy {timeout:.0f} s after their start, with nothing to do"
            )
        time.sleep(0.25)
        now = sum(map(_cpu, descendants()))
        quiet = quiet + 1 if abs(now - before) < share * 0.25 else 0
        before = now
