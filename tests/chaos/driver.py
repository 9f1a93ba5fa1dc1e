"""The driver: carries a plan out on real workers, drains the queue with fresh ones, and has the result checked."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from queuectl.errors import QueuectlError
from queuectl.spool import Spool
from tests.chaos import checker, history
from tests.chaos.clock import LATER, STEPS
from tests.chaos.disk import Disk
from tests.chaos.fleet import Fleet, kill_strays
from tests.chaos.plan import Action, Plan, Planned
from tests.support import environment

JOB = Path(__file__).with_name("job.sh")
DRAIN_LIMIT = 120.0  # seconds


class Chaos:
    """One run. `directory` is the driver's own; the spool lies at `root`, on a disk that can be filled if there is
    one."""

    def __init__(self, plan: Plan, directory: Path, root: Path, disk: Disk | None, say: Callable[[str], None]) -> None:
        self.plan, self.directory, self.root, self.disk, self.say = plan, directory, root, disk, say
        self.spool = Spool(root, durability=plan.durability)
        self.fleet = Fleet(root, directory, plan.durability, hosts=plan.hosts)
        self.history = history.History(directory / "history")
        self.drafts = 0  # that killed enqueuers, or a full disk, may have left
        self.done: dict[str, int] = {}
        self.refused = 0
        self.half_written: set[str] = set()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._jobs: queue.Queue[Planned | None] = queue.Queue()
        self._broken: list[str] = []

    def run(self) -> list[str]:
        """Sentences that say what was broken; none if all held."""
        enqueuers = [threading.Thread(target=self._enqueue_all, daemon=True) for _ in range(4)]
        try:
            self._begun = time.monotonic()
            for slots in self.plan.slots:
                self.fleet.start(slots)
            for job in self.plan.jobs:
                self._jobs.put(job)
            for thread in enqueuers:
                self._jobs.put(None)
                thread.start()
            for action in self.plan.actions:
                self._wait_until(self._begun + action.at)
                self._act(action)
            self._wait_until(self._begun + self.plan.seconds)
            self._undo_everything()
            for thread in enqueuers:
                thread.join()
            self._drain()
            return self._broken + self._check()
        finally:
            self._undo_everything()
            self.fleet.end_all(signal.SIGKILL, 10)
            kill_strays(self.root)
            self.history.close()

    # -- enqueue --------------------------------------------------------------------------------------------------

    def _enqueue_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            time.sleep(max(0.0, self._begun + job.at - time.monotonic()))
            try:
                if (job_id := self._enqueue(job)) is not None:
                    self.history.note("accepted", id=job_id)
            except (QueuectlError, OSError):
                self.refused += 1
            except BaseException as error:
                self._broken.append(f"enqueue by {job.door} failed: {error!r}")

    def _enqueue(self, job: Planned) -> str | None:
        command = f"exec /bin/sh {JOB} {self.directory} {job.kind} {job.failures}"
        members = {"command": command, **job.members}
        if job.door == "api":
            return self.spool.enqueue(**members)
        if job.door == "drop":
            return self._drop(members)
        process = subprocess.Popen(
            [*self.fleet.clock.command, "--spool", str(self.root), "enqueue", json.dumps(members)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        if job.door == "killed cli":
            with suppress(subprocess.TimeoutExpired):
                process.wait(job.at % 0.2)
            process.kill()
            self.drafts += 1
        out, err = process.communicate()
        if "Traceback" in err and job.door == "cli":
            self._broken.append(f"enqueue printed a traceback: {err}")
        self.refused += process.returncode > 0
        return out.strip() if out.endswith("\n") else None

    def _drop(self, members: dict[str, object]) -> str:
        """As any program does: write under a hidden name and rename; or just write; or link."""
        job_id = str(members.setdefault("id", f"drop-{time.monotonic_ns()}"))
        pending = self.root / "pending"
        how = len(job_id + str(members["command"])) % 3
        if how == 0:
            self.half_written.add(f"{job_id}.json")  # until it is whole, it may be set aside
            (pending / f"{job_id}.json").write_text(json.dumps(members))
            self.half_written.discard(f"{job_id}.json")
            return job_id
        hidden = self.root / f".{job_id}"
        hidden.write_text(json.dumps(members))
        if how == 1:
            hidden.rename(pending / f"{job_id}.json")
        else:  # adopted or not while it has two names, it must come right
            os.link(hidden, pending / f"{job_id}.json")
            hidden.unlink()
        return job_id

    # -- chaos ----------------------------------------------------------------------------------------------------

    def _wait_until(self, moment: float) -> None:
        while True:
            due = [later for later in self._later if later[0] <= time.monotonic()]
            for later in due:
                self._later.remove(later)
                later[1]()
            pause = min([moment, *(when for when, _ in self._later)]) - time.monotonic()
            if pause <= 0 and moment <= time.monotonic():
                return
            time.sleep(max(0.0, min(pause, 0.2)))

    def _undo_everything(self) -> None:
        while self._later:
            self._later.pop(0)[1]()

    def _act(self, action: Action) -> None:
        name = action.what.replace(" ", "_")
        if getattr(self, "_" + name)(action) is not False:
            self.done[action.what] = self.done.get(action.what, 0) + 1
        while len(self.fleet.living()) < len(self.plan.slots) / 2:
            self.fleet.start(self.plan.slots[self.fleet.started % len(self.plan.slots)])

    def _after(self, action: Action, what: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + action.lasts, what))

    def _pause(self, action: Action) -> None:
        self._wait_until(time.monotonic() + action.lasts / 2)

    def _start(self, action: Action) -> bool | None:
        if len(self.fleet.living()) >= 2 * len(self.plan.slots):
            return False
        self.fleet.start(1 + int(action.whom * 4))
        return None

    def _kill(self, action: Action) -> None:
        if worker := self.fleet.pick(action.whom):
            self.fleet.signal(worker, signal.SIGKILL)

    def _kill_all(self, action: Action) -> None:
        for worker in self.fleet.living():
            self.fleet.signal(worker, signal.SIGKILL)

    def _terminate(self, action: Action) -> None:
        if worker := self.fleet.pick(action.whom):
            self.fleet.signal(worker, signal.SIGTERM)

    def _stop_now(self, action: Action) -> None:
        if worker := self.fleet.pick(action.whom):
            self.fleet.signal(worker, signal.SIGTERM)
            self._later.append((time.monotonic() + 0.1, lambda: self.fleet.signal(worker, signal.SIGTERM)))

    def _freeze(self, action: Action) -> None:
        if worker := self.fleet.pick(action.whom):
            self.fleet.signal(worker, signal.SIGSTOP)
            self._after(action, lambda: self.fleet.signal(worker, signal.SIGCONT))

    def _fill(self, action: Action) -> bool | None:
        if self.disk is None or self.disk.problem:
            return False
        self.drafts += 10  # whose writer could not even remove it
        self.disk.fill()
        self._after(action, self.disk.empty)
        return None

    def _clock(self, action: Action) -> None:
        """Somebody sets the clock, and later sets it right."""
        self.fleet.clock.set(STEPS[int(action.whom * len(STEPS))])
        self._after(action, lambda: self.fleet.clock.set(0.0))

    def _move_away(self, action: Action) -> bool | None:
        """An administrator moves a directory away, and back again. What was made in its place is merged."""
        place, away = self.root / action.directory, self.root / f".away-{action.directory}"
        if away.exists() or not place.exists():
            return False
        place.rename(away)
        self._after(action, lambda: self._move_back(place, away))
        return None

    def _move_back(self, place: Path, away: Path) -> None:
        try:
            away.rename(place)  # works if nobody has made it again, or nothing is in it
        except OSError:
            for path in list(away.iterdir()):
                path.rename(place / path.name)
            away.rmdir()

    def _remove(self, action: Action) -> bool | None:
        try:
            (self.root / action.directory).rmdir()  # only if it is empty
        except OSError:
            return False
        return None

    # -- the end --------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        if late := self.fleet.end_all(signal.SIGKILL if self.plan.seed % 2 else signal.SIGTERM, 30):
            self._broken.append(f"workers {late} did not end within 30 s of SIGTERM")
        self.fleet.clock.set(LATER)  # what was accepted or failed while the clock was ahead waits for its time
        begun = time.monotonic()
        drainers: list[subprocess.Popen[bytes]] = []
        while True:
            # A job may still kill its worker: then another takes its place.
            killed = [worker for worker in drainers if worker.poll() == -signal.SIGKILL]
            drainers = [worker for worker in drainers if worker not in killed]
            while len(drainers) < 2:
                drainers.append(self.fleet.start(4, "--until-empty"))
            codes = [worker.poll() for worker in drainers]
            if all(code is not None for code in codes):
                break
            if time.monotonic() - begun > DRAIN_LIMIT:
                self._broken.append(f"the queue was not drained within {DRAIN_LIMIT:g} s")
                return
            time.sleep(0.1)
        if any(codes):
            self._broken.append(f"workers that drained ended with exit codes {codes}")
        self.say(f"drained in {time.monotonic() - begun:.1f} s")

    def _check(self) -> list[str]:
        events = history.read(self.directory / "history")
        count: dict[str, int] = {}
        for event in events:
            count[event["event"]] = count.get(event["event"], 0) + 1
        self.say(f"history: {count}; refused {self.refused}; workers {self.fleet.started}; actions {self.done}")
        return (
            checker.check_history(events, hosts=self.plan.hosts)
            + checker.check_spool(self.root, events, abandoned_drafts=self.drafts, half_written=self.half_written)
            + (checker.check_processes(self.root) if self.plan.hosts == 1 else [])
            + self.fleet.tracebacks()
        )
