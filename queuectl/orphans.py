"""Processes of jobs, found by what they carry: QUEUECTL_CLAIM in the environment, or the job's log as their output.

Owns finding and killing the processes that a dead worker left behind (R8), and those that left their job's process
group. Reads /proc, sends signals; never touches the spool. A process id is never taken from a file: only a process
that carries the mark now is killed, so that an innocent one that got an old number is safe.

When things go wrong: a process that cannot be read (another user's) is no process of ours; one that doesn't die
(state D) is returned, and its job must not be given back yet.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator

EXEC_LOOKS = 20  # a millisecond apart: an execve takes a tenth of one, unless the program must be read from a disk
ROUNDS = 10  # of listing /proc: each costs a millisecond, and somebody is always new on a busy host
HUNT = 10.0  # seconds for which a killed process is waited for
_PREFIX = b"QUEUECTL_"
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def mark_of(pid: int) -> str:
    """The claim that a process carries, or "" if it carries none, is gone, or is another user's; or is just executing
    another program: ask again."""
    return _variables(_environ(pid)[0]).get("QUEUECTL_CLAIM", "")


def _look(pids: Iterable[int]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each process, and what its environment says of its job. Those that are just executing another program (execve(2)
    has given them a new memory, and not yet put the environment there) are looked at again, together."""
    unclear = list(pids)
    for look in range(EXEC_LOOKS):
        if look:
            time.sleep(0.001)
        again = []
        for pid in unclear:
            environ, whole = _environ(pid)
            if whole or look == EXEC_LOOKS - 1:
                yield pid, _variables(environ)
            else:
                again.append(pid)
        unclear = again
        if not unclear:
            return


def _processes() -> Iterator[tuple[int, dict[str, str]]]:
    """All processes, and what their environments say of their jobs. One that has ended between the listing and the look
    may have left a child that was in no listing yet: so it lists again until nobody is new, or ROUNDS times."""
    seen = {os.getpid()}
    for _ in range(ROUNDS):
        new = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in seen]
        if not new:
            return
        seen.update(new)
        yield from _look(new)


def _environ(pid: int) -> tuple[bytes, bool]:
    """A process's environment, and whether that is all of it: while it executes another program the kernel shows none,
    or a part of the old one."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = file.read()
        if environ and len(environ) == _size_of_environ(pid):
            return environ, True
        os.readlink(f"/proc/{pid}/exe")
    except OSError:  # another user's; gone; a zombie or a thread of the kernel, which have no program
        return b"", True
    return environ, False


def _size_of_environ(pid: int) -> int:
    """env_end - env_start, proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[48]) - int(fields[47])


def _variables(environ: bytes) -> dict[str, str]:
    if _PREFIX not in environ:
        return {}
    pairs = [pair.decode("utf-8", "surrogateescape").partition("=") for pair in environ.split(b"\0")]
    return {name: value for name, _, value in pairs if name.startswith("QUEUECTL_")}


def hunt(worker: str) -> None:
    """Kill all processes that carry a claim of this worker, also those that have left their job's group (setsid,
    timeout(1)). It touches no spool; but to read /proc of a process that is mapping a file of a dead server may block.
    """
    mark = f"@{worker}."
    kill_all(lambda: {pid for pid, said in _processes() if mark in said.get("QUEUECTL_CLAIM", "")}, HUNT)


def find(wanted: Callable[[str], bool], spool: str, logs: frozenset[str] = frozenset()) -> set[int]:
    """The ids of all processes of jobs of the spool at `spool` whose mark is `wanted`, or whose output goes to one of
    the named `logs`.

    A copy of a spool (a backup, a snapshot) holds the same names, but the processes are the original's. Only if the
    spool that a process names is gone (it was moved) does it count here. A spool may have several paths (links).
    """
    found = set()
    directory = os.path.join(os.path.realpath(spool), "logs", "")  # as /proc gives it
    for pid, said in _processes():
        mark, home = said.get("QUEUECTL_CLAIM", ""), said.get("QUEUECTL_SPOOL", spool)
        if mark:
            if wanted(mark) and _is_home(home, spool):
                found.add(pid)
        elif logs and output_of(pid, directory) in logs:
            found.add(pid)
    return found


def _is_home(home: str, spool: str) -> bool:
    try:
        return home == spool or os.path.samefile(home, spool)
    except OSError:
        return not os.path.isdir(home)


def output_of(pid: int, directory: str) -> str:
    """The name of the file in `directory`, a real path with a slash at its end, that a process writes its output to; or
    ""."""
    for fd in ("1", "2"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if path.startswith(directory):
            return path[len(directory) :]
    return ""


def holders(spool: str, logs: Iterable[str]) -> dict[int, bool]:
    """Processes that hold the lock of one of these logs of the spool at `spool`, by any descriptor: its worker had
    locked it, and what its job started inherits that. And whether each is that worker itself."""
    paths = {os.path.join(os.path.realpath(spool), "logs", log) for log in logs}
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in paths and (locker := _locker(pid, fd)):
                    found[pid] = locker == str(pid)
        except OSError:
            continue  # another user's, or gone
    return found


def _locker(pid: int, fd: str) -> str:
    """Who has locked the file of a descriptor exclusively (proc_pid_fdinfo(5)); "" if nobody. Who only asks for a lock
    has a shared one."""
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        for line in file:  # lock:	1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF
            words = line.split()
            if words[:1] == ["lock:"] and words[2:5] == ["FLOCK", "ADVISORY", "WRITE"]:
                return words[5]
    return ""


def kill_all(look: Callable[[], set[int]], limit: float) -> set[int]:
    """Kill what `look` finds, with its process groups, until it finds nothing; who forks meanwhile is found the next
    time. `limit` is seconds. Returns those that are still there then."""
    deadline = time.monotonic() + limit
    while pids := {pid for pid in look() if not is_zombie(pid)}:
        for pid in pids:
            kill(pid)
        for pid in pids:
            await_end(pid, deadline)
        if time.monotonic() >= deadline:
            return {pid for pid in look() if not is_zombie(pid)}
    return set()


def kill(pid: int, *, alone: bool = False) -> bool:
    """SIGKILL for a process, and for its group unless that is our own (or it is meant `alone`). False if we may not: it
    is another user's."""
    try:
        group = os.getpgid(pid)
        if group != os.getpgrp() and not alone:
            os.killpg(group, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def await_end(pid: int, deadline: float) -> None:
    """Wait until a process has ended (is a zombie at least), at most until `deadline` on the monotonic clock."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(fd)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended (or is gone)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def session_of(pid: int) -> int:
    """The session of a process; -1 if it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def adopt_orphans() -> bool:
    """Make this process the parent of its orphaned descendants (PR_SET_CHILD_SUBREAPER, prctl(2)), so that a process
    that leaves its job's group is still seen. False where the kernel doesn't."""
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Children:
    """The children of the thread that made it, orphans that have come to it included."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN
            self._fd = -1

    def pids(self) -> list[int]:
        """Their process ids; [] where the kernel doesn't tell."""
        if self._fd < 0:
            return []
        # A buffer for all that there could be would be mapped and unmapped anew at each call: ten times the cost.
        size = 4096
        while len(text := os.pread(self._fd, size, 0)) == size:
            size *= 4
        return [int(word) for word in text.split()]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
