"""Leases: who is alive.

A lease is workers/<worker>.json, held by whoever claims jobs: taken before the first claim, given up after the last.
Owns taking and renewing one, and judging those of others. Never touches a job.

On one kernel (same boot id) a lease is held by flock, and the kernel's word is final: the lock goes with the process,
however it ends. Across hosts flock is not to be trusted (`nolock` mounts); there a lease is stale when its heartbeat,
the file's mtime, read by open + fstat, has not changed for `stale-after` on the observer's own monotonic clock. No two
clocks are compared to decide that somebody is dead (R11). What the clients of a file server share is a local file
system to the server; so there, too, another host's lease is judged by its heartbeat. This host's own, from before it
was booted, is dead at once on a local file system.

When things go wrong: a lease whose file was removed is lost (`renew` says so) and never taken up again; its owner
kills its jobs and takes a new one under a new name.

It is long because what is written into a lease, and how others judge by it, must agree.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from fcntl import LOCK_NB, LOCK_SH, flock
from typing import Any, NamedTuple

from queuectl.core.names import LONGEST_WORKER, SUFFIX, is_worker
from queuectl.core.times import SECOND, iso
from queuectl.disk import SLOW_ANSWER, WORKERS, token
from queuectl.errors import ConfigError, SpoolError
from queuectl.spool import Spool

ROLE_WORKER = "worker"
LOOK_EVERY = 0.1  # of `stale-after`: how often the heartbeats of other hosts are looked at
ROLE_CLI = "cli"  # a command that holds a claim for a moment: cancel, dlq retry


class WorkerInfo(NamedTuple):
    """What a lease says of its holder. `alive` is False only if it is certain (same kernel, or rebooted) or has been
    stale for long enough; `heartbeat_age` is seconds; `mine`: it runs on this kernel; `stopping`: it takes no new
    jobs."""

    id: str
    host: str
    pid: int
    role: str
    slots: int
    labels: tuple[str, ...]
    started_at: str
    version: str
    alive: bool
    heartbeat_age: float
    mine: bool
    stale_after: float = 0.0  # by which it fences itself; 0 if it doesn't say
    stopping: bool = False


def boot_id() -> str:
    """What names this run of this kernel. $QUEUECTL_PRETEND_HOST replaces it, so that tests can be another host."""
    if pretended := os.environ.get("QUEUECTL_PRETEND_HOST"):
        return pretended
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"host-{host()}"


def host() -> str:
    """This host's name, for people."""
    return os.environ.get("QUEUECTL_PRETEND_HOST") or os.uname().nodename


class Lease:
    """A lease of one's own. Use it as a context manager, or call `release`."""

    def __init__(
        self, spool: Spool, role: str, *, slots: int = 0, labels: tuple[str, ...] = (), stale_after: float = 0.0
    ) -> None:
        from queuectl import __version__

        name = re.sub(r"[^A-Za-z0-9]+", "-", host().partition(".")[0]).strip("-")[:16] or "host"
        self.worker = f"{name}-{os.getpid()}-{token()}"[-LONGEST_WORKER:].lstrip("-")
        assert is_worker(self.worker), self.worker
        self._spool = spool
        self._claims = self._room = 0
        self._about: dict[str, Any] = {
            "worker": self.worker, "role": role, "host": host(), "pid": os.getpid(), "boot_id": boot_id(),
            "slots": slots, "labels": list(labels), "started_at": iso(time.time_ns()), "version": __version__,
            "stale_after": stale_after, "stopping": False,
        }  # fmt: skip
        self._fd = spool.publish_lease(self.worker, self._text())
        self._ahead: int | None = None  # nanoseconds by which the server's clock is ahead of our monotonic one
        if spool.network:
            self._beat()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _text(self) -> bytes:
        """Always of one length, so that it can be written over in one call."""
        text = json.dumps(self._about).encode()
        self._room = self._room or len(text) + 32
        return text.ljust(self._room) + b"\n"

    def promise(self, stale_after: float) -> None:
        """Say in the lease by which `stale-after` (seconds) its holder fences itself: no observer with a shorter one of
        its own may call it dead before. To be said before the fence is put off, and after it is brought near.
        SpoolError."""
        self._about["stale_after"] = stale_after
        self._spool.rewrite_lease(self._fd, self._text())

    def say_stopping(self) -> None:
        """Say in the lease that its holder takes no new jobs: others need not leave it any, and people see it.
        SpoolError."""
        if not self._about["stopping"]:
            self._about["stopping"] = True
            try:
                self._spool.rewrite_lease(self._fd, self._text())
            except SpoolError:
                self._about["stopping"] = False
                raise

    def next(self) -> int:
        """The number of the next claim; none is ever used twice (R4)."""
        self._claims += 1
        return self._claims

    def renew(self) -> bool:
        """Show that the holder is alive. False: the lease is lost, somebody took its holder for dead. SpoolError if
        the spool doesn't answer as it should; the lease may still hold."""
        try:
            self._beat()
            return os.fstat(self._fd).st_nlink > 0 and self._is_in_place()
        except SpoolError as error:
            # The beat was made. That there is no descriptor for a look now is no reason to be fenced.
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return True
        except OSError as error:
            if error.errno == errno.ESTALE:
                return False
            raise SpoolError.of(error, "renew the lease", self._spool.dir(WORKERS)) from None

    def _is_in_place(self) -> bool:
        """Whether others see it too: if workers/ was moved away and made again, our claims are nobody's to them, and
        they take them. SpoolError if there is no workers/ at all: then nobody can judge."""
        name = self.worker + SUFFIX
        seen = self._spool.open_worker_file(name)
        if seen is None:
            if name in self._spool.names(WORKERS):
                return True
            self._spool.check_identity()  # another spool at its place says nothing of us
            return False
        try:
            return os.path.sameopenfile(seen, self._fd)
        finally:
            os.close(seen)

    def _beat(self) -> None:
        before = time.monotonic_ns()
        os.utime(self._fd)
        after = time.monotonic_ns()
        if self._spool.network and after - before < SLOW_ANSWER:
            self._ahead = os.fstat(self._fd).st_mtime_ns - (before + after) // 2
        elif self._spool.network and self._ahead is None:
            self._ahead = self._spool.clock() - time.monotonic_ns()

    def now(self) -> int:
        """Nanoseconds UTC; on a network file system by the server's clock, learned at each heartbeat to the precision
        of a round trip, so that hosts whose clocks differ agree on what is due (R11)."""
        return time.time_ns() if self._ahead is None else time.monotonic_ns() + self._ahead

    def release(self) -> None:
        """Give the lease up. No claim may be held any more."""
        if self._fd >= 0:
            self._spool.remove_worker_file(self.worker + SUFFIX)
            os.close(self._fd)
            self._fd = -1


class Census:
    """Who is alive, as seen by one observer over time.

    `now` arguments are seconds on the observer's monotonic clock.
    """

    def __init__(self, spool: Spool, stale_after: float, me: str = "") -> None:
        self.stale_after = stale_after
        self._spool = spool
        self._me = me
        self._boot_id = boot_id()
        self._network = spool.network
        self._seen: dict[str, tuple[WorkerInfo, float]] = {}  # the living, and when they were looked at
        self._heartbeats: dict[str, tuple[int, float]] = {}  # the last mtime, and since when it has been the same

    def look(self, now: float) -> list[WorkerInfo]:
        """All leases that lie in workers/, with a judgement each."""
        names = [name.removesuffix(SUFFIX) for name in self._spool.names(WORKERS) if name.endswith(SUFFIX)]
        found = [info for name in names
                 if is_worker(name) and (info := self._recent(name, now) or self._judge(name, now))]  # fmt: skip
        for known in (self._heartbeats, self._seen):
            for gone in known.keys() - {info.id for info in found}:
                del known[gone]
        return found

    def _recent(self, worker: str, now: float) -> WorkerInfo | None:
        """What was seen of a living worker a moment ago: of a hundred hosts each would ask the server for a hundred
        leases at each look, and a heartbeat is rare."""
        info, when = self._seen.get(worker, (None, 0.0))
        _, since = self._heartbeats.get(worker, (0, now))
        return info if now - when < self.stale_after * LOOK_EVERY and now - since < self.stale_after else None

    def _judge(self, worker: str, now: float) -> WorkerInfo | None:
        info = self._look_at(worker, now)
        # What this kernel knows costs nothing, and a death here is to be seen at once.
        if info is not None and self._network and info.alive and (worker == self._me or not info.mine):
            self._seen[worker] = info, now
        else:
            self._seen.pop(worker, None)
        return info

    def _look_at(self, worker: str, now: float) -> WorkerInfo | None:
        # Listed, but it cannot be opened: it has just ended, or a cache lies. Nobody is called dead for that.
        unseen = WorkerInfo(worker, "?", 0, ROLE_CLI, 0, (), "", "?", True, 0.0, False)
        try:
            fd = self._spool.open_worker_file(worker + SUFFIX)
        except SpoolError as error:
            if error.is_of_one_file:  # another user's, or on a bad block: no worker may stop for that
                return unseen
            raise
        if fd is None:
            return None if self._spool.exists(WORKERS, worker + SUFFIX) else unseen
        try:
            modified = os.fstat(fd).st_mtime_ns
            about = _read(fd)
            mine = about.get("boot_id") == self._boot_id
            promised = _number(about.get("stale_after"))
            if worker == self._me:
                alive = True
            elif mine:
                alive = _is_locked(fd)
            elif not self._network and not _is_elsewhere(about.get("host")):
                alive = False  # a local file system, and that kernel is gone: the machine was booted since
            else:  # another host; on a file server, too, where what its clients see is a local file system
                alive = self._beats(worker, modified, now, promised)
        except OSError as error:
            if error.errno == errno.ESTALE:
                return unseen
            raise SpoolError.of(error, "read a lease", self._spool.dir(WORKERS) + worker) from None
        finally:
            os.close(fd)
        said = about.get("labels")
        labels = tuple(map(str, said)) if isinstance(said, list) else ()
        return WorkerInfo(
            worker, str(about.get("host", "?")), _int(about.get("pid")), str(about.get("role", ROLE_WORKER)),
            _int(about.get("slots")), labels, str(about.get("started_at", "")),
            str(about.get("version", "?")), alive, max(0.0, (self._spool.clock() - modified) / SECOND), mine, promised,
            about.get("stopping") is True,
        )  # fmt: skip

    def _beats(self, worker: str, modified: int, now: float, promised: float) -> bool:
        """Whether its heartbeat is young enough: by our `stale-after`, and by the one that it fences itself by, which
        may be another (a flag, or a change that it could not read)."""
        seen, since = self._heartbeats.get(worker, (None, now))
        if seen != modified:
            seen, since = modified, now
        self._heartbeats[worker] = (modified, since)
        return now - since < max(self.stale_after, promised)


def workers(spool: Spool) -> list[WorkerInfo]:
    """All leases (`role` tells workers from commands) as a passer-by sees them. Another host's lease counts as alive
    here unless its heartbeat is old by the server's clock: good enough to show, never to act on."""
    stale_after = setting(spool, "stale-after")
    census = Census(spool, stale_after)
    return [
        info if info.mine or info.heartbeat_age < max(stale_after, info.stale_after) else info._replace(alive=False)
        for info in census.look(time.monotonic())
    ]


def setting(spool: Spool, key: str) -> float:
    """A setting that is a number. With a broken config.toml its default: that is no time to see nothing, and to stop
    nobody."""
    from queuectl import config

    try:
        value = getattr(config.load(spool.config_path, os.environ), key.replace("-", "_"))
    except ConfigError:
        value = config.BY_KEY[key].default
    return float(value)


def _is_elsewhere(named: object) -> bool:
    """Whether a lease names another host than this one."""
    return isinstance(named, str) and named != host()


def _is_locked(fd: int) -> bool:
    try:
        flock(fd, LOCK_SH | LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return True  # no locks here: nobody is called dead on such grounds
        raise
    return False


def _read(fd: int) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(fd, 65536, 0))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
