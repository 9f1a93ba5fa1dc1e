"""A stage for crashes: a spool, and a worker that dies before its k-th change and is recovered from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from queuectl.core.names import Claim, parse_record
from queuectl.errors import IdTaken
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.spool import Spool
from tests.spool.faults import Crash, CrashingFs
from tests.support import age, die, leftovers, listing, recover


class Deaf(CrashingFs):
    """As fast as memory: a sync counts, but isn't waited for."""

    def fsync(self, fd: int) -> None:
        self.before("fsync", (fd,))


class Stage:
    """A spool, a worker that holds a lease in it and will die, and what is on the stage."""

    def __init__(self, root: Path, durability: str) -> None:
        self.fs = Deaf()
        self.spool = Spool(root, durability="none")
        self.doomed = Spool(root, durability=durability, fs=self.fs)
        self.lease = Lease(self.doomed, ROLE_WORKER)
        self.spares: list[str] = []

    def claimed(self, job_id: str = "job1", *, started: bool = False, **members: Any) -> Claim:
        self.spool.enqueue("true", id=job_id, **members)
        entry = self.spool.find(job_id)
        assert entry is not None
        claim = self.doomed.claim(entry, self.lease.worker, self.lease.next())
        assert claim is not None
        if started:
            Path(self.spool.dir("logs") + f"{job_id}.1.log").write_text("")
        return claim

    def play(self, act: Callable[[], Any], k: int) -> bool:
        """Run `act` until it dies before its k-th change. Whether it came to its end."""
        self.fs.arm(k)
        try:
            act()
        except Crash:
            finished = False
        else:
            finished = True
        self.fs.left = None
        self.fs.dead = True
        for fd in os.listdir("/proc/self/fd"):  # the kernel closes a lease that was held for a moment
            try:
                if int(fd) != self.lease._fd and os.readlink(f"/proc/self/fd/{fd}").startswith(self.spool.root):
                    os.close(int(fd))
            except OSError:
                pass
        self.recorded = [record for name in leftovers(self.spool) if (record := parse_record(name))]
        die(self.lease)
        return finished

    def clear_up(self) -> None:
        recover(self.spool)
        age(self.spool)
        recover(self.spool)
        assert leftovers(self.spool) == []
        assert listing(self.spool, "workers") == []
        assert listing(self.spool, "processing") == []

    def is_free(self, job_id: str) -> bool:
        """Whether an id can be taken (and takes it)."""
        try:
            self.spool.enqueue("true", id=job_id)
        except IdTaken:
            return False
        return True


Stages = Callable[[int], Stage]
