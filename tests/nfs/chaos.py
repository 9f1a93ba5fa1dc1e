"""python -m tests.nfs.chaos: everything at once on real NFS, for as long as you like.

Hosts lose power, freeze, are cut off and lose packets; workers are killed; the server restarts and loses power; clocks
are set; jobs misbehave as in tests/chaos, whose plan, jobs and checker are used. The seed is printed; with it the same
decisions are made again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import checker
from tests.chaos.plan import Plan, Planned
from tests.nfs.cluster import LAB, OUT, PYTHON, STALE_AFTER, Cluster, boot, missing, said, signal_job
from tests.support import REPOSITORY

JOB = REPOSITORY / "tests" / "chaos" / "job.sh"
DRAIN_LIMIT = 240.0  # seconds, and as long again as it was broken
FAULTS = {  # what happens, and how often
    "kill worker": 8, "stop worker": 2, "power cut": 3, "freeze": 4, "cut off": 4, "lose replies": 4, "slow": 3,
    "restart service": 3, "server power cut": 2, "set clock": 2, "pause": 4,
}  # fmt: skip


class Chaos:
    """One run on one lab. `run` gives sentences that say what was broken."""

    def __init__(self, cluster: Cluster, seed: int, seconds: float, jobs: int, say: Callable[[str], None]) -> None:
        self.cluster, self.lab, self.say = cluster, cluster.lab, say
        self.seconds = seconds
        self.rng = random.Random(seed)
        self.plan = Plan(seed, seconds, jobs, len(cluster.hosts), len(cluster.hosts))
        self.workers: dict[str, Any] = {}
        self.enqueuers: dict[str, Any] = {}
        self.logs: list[Any] = []
        self.boots: Counter[str] = Counter()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.done: Counter[str] = Counter()
        self.drafts = 0  # that whoever lost power, or was killed, may have left

    def run(self) -> list[str]:
        for host in self.cluster.hosts:
            place = self.cluster.output(host)
            mine = [self._described(host, n, job) for n, job in enumerate(self.plan.jobs)
                    if n % len(self.cluster.hosts) == self.cluster.hosts.index(host)]  # fmt: skip
            (place / "jobs").write_text(json.dumps(mine))
            self._ensure(host)
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            self._wait(time.monotonic() + 0.5 + self.rng.expovariate(0.4))
            self._break_something()
            for host in self.cluster.hosts:
                self._ensure(host)
        self._wait(time.monotonic(), everything=True)
        broken = self._drain()
        return broken + self._check()

    def _described(self, host: str, number: int, job: Planned) -> dict[str, Any]:
        command = f"exec /bin/sh {JOB} {OUT} {job.kind} {job.failures}"
        members = {"command": command, **job.members}
        if job.door == "drop" or "id" in members:
            members["id"] = f"{host}-{number}"
        return {"at": job.at, "door": job.door, "members": members}

    # -- keep it going ------------------------------------------------------------------------------------------------

    def _ensure(self, host: str) -> None:
        """A worker and an enqueuer on each host that is up."""
        if not self.lab.alive(host) or host in self._down():
            return
        if host not in self.workers or self.workers[host].done.is_set():
            self.workers[host] = self._start_worker(host)
        if host not in self.enqueuers or (self.enqueuers[host].done.is_set() and self.enqueuers[host].code):
            argv = [PYTHON[0], "-m", "tests.nfs.enqueuer", f"{OUT}/jobs", f"{OUT}/history"]
            self.enqueuers[host] = self.cluster.start(host, argv)

    def _start_worker(self, host: str, *arguments: str) -> Any:
        # A job of the kind "killer" looks for worker.<pid>: it may kill the workers of this run only.
        words = [*PYTHON, "--spool", self.cluster.spool, "worker", "start", "--count", "3", "--log-level", "debug",
                 "--backoff-max", "0.2", "--durability", self.plan.durability, *arguments]  # fmt: skip
        job = self.cluster.start(host, ["sh", "-c", f": > {OUT}/worker.$$; exec {' '.join(words)}"])
        self.logs.append(job)
        return job

    def _down(self) -> set[str]:
        """The hosts that nothing can be started on now: frozen ones, and those that have no mount."""
        return {host for _, undo in self.later if (host := getattr(undo, "host", ""))}

    def _wait(self, moment: float, everything: bool = False) -> None:
        while True:
            due = [one for one in self.later if everything or one[0] <= time.monotonic()]
            due.sort(key=lambda one: not getattr(one[1], "host", ""))  # hosts come up first
            for one in due:
                self.later.remove(one)
                one[1]()
            if time.monotonic() >= moment:
                return
            time.sleep(0.1)

    # -- faults -------------------------------------------------------------------------------------------------------

    def _break_something(self) -> None:
        what = self.rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        host, lasts = self.rng.choice(self.cluster.hosts), min(1 + self.rng.expovariate(0.2), 12.0)
        if host in self._down() or not self.lab.alive(host):
            return
        self.done[what] += 1
        getattr(self, "_" + what.replace(" ", "_"))(host, lasts)

    def _after(self, seconds: float, undo: Callable[[], None], host: str = "") -> None:
        def call() -> None:
            undo()

        call.host = host  # type: ignore[attr-defined]
        self.later.append((time.monotonic() + seconds, call))

    def _once_up(self, host: str, undo: Callable[[], None], boots: int = -1) -> None:
        """Undo it as soon as the host answers; a boot has undone it as well."""
        if host in self._down():
            self._after(1.0, lambda: self._once_up(host, undo, boots))
        elif boots in (-1, self.boots[host]):
            undo()

    def _pause(self, host: str, lasts: float) -> None:
        self._wait(time.monotonic() + lasts / 2)

    def _kill_worker(self, host: str, lasts: float) -> None:
        signal_job(self.workers[host], 9)

    def _stop_worker(self, host: str, lasts: float) -> None:
        signal_job(self.workers[host], 15)

    def _power_cut(self, host: str, lasts: float) -> None:
        self.drafts += 3
        self.lab.kill(host)
        for job in (self.workers[host], self.enqueuers[host]):
            job.done.wait(10)  # the lab looks once a second; of a machine that is back by then it would not find out

        def boot() -> None:
            self.lab.boot(host)
            self.lab.mount(host)
            self.boots[host] += 1

        self._after(lasts, boot, host)

    def _freeze(self, host: str, lasts: float) -> None:
        self.lab.pause(host)
        self._after(lasts, lambda: self.lab.resume(host), host)

    def _cut_off(self, host: str, lasts: float) -> None:
        self.lab.partition(host)
        self._after(lasts, self.lab.heal)

    def _lose_replies(self, host: str, lasts: float) -> None:
        self.lab.drop("server", host)
        self._after(lasts / 2, self.lab.heal)

    def _slow(self, host: str, lasts: float) -> None:
        self.lab.delay(host, 50, 5)
        self._after(lasts, lambda: self._once_up(host, lambda: self.lab.delay(host, 0)))

    def _restart_service(self, host: str, lasts: float) -> None:
        self.lab.nfsd_restart(down=min(lasts / 4, 2.0))

    def _server_power_cut(self, host: str, lasts: float) -> None:
        self.lab.drop("server", "any")  # what it does now, nobody hears of
        self._wait(time.monotonic() + 0.3)
        self.lab.reboot("server")
        self.lab.heal()

    def _set_clock(self, host: str, lasts: float) -> None:
        by = self.rng.choice((-3600.0, 3600.0))
        self.lab.skew(host, by)
        boots = self.boots[host]
        self._after(lasts, lambda: self._once_up(host, lambda: self.lab.skew(host, -by), boots))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _drain(self) -> list[str]:
        """Let all that was enqueued come to its end; then stop all workers, and sweep what is left."""
        self.lab.heal()
        begun = time.monotonic()
        look = f"cd {self.cluster.truth}; ls -A pending failed processing .tmp | grep 'json\\|=spent' | wc -l"
        quiet = 0.0
        while quiet < STALE_AFTER + 4:  # and long enough for leases of the dead to be noticed
            for host in self.cluster.hosts:
                self._ensure(host)
            busy = any(not one.done.is_set() or one.code for one in self.enqueuers.values())
            left = self.cluster.shell("server", look).strip() != "0"
            time.sleep(0.5)
            quiet = 0.0 if busy or (left and quiet < 1) else quiet + 0.5
            if time.monotonic() - begun > DRAIN_LIMIT + self.seconds:
                for worker in self.workers.values():
                    signal_job(worker, 9)
                return [f"the queue was not drained in time: {self.cluster.counts()}"]
        broken = []
        for host, worker in self.workers.items():
            signal_job(worker, 15)
            if worker.wait(60).code != 0:
                broken.append(f"the worker on {host} ended with {worker.code}")
        last = self._start_worker(self.cluster.hosts[0], "--until-empty").wait(60)
        self.say(f"drained in {time.monotonic() - begun:.0f} s")
        return broken + ([] if last.code == 0 else [f"the last worker ended with {last.code}: {last.err}"])

    def _check(self) -> list[str]:
        events: list[dict[str, Any]] = []
        for host in self.cluster.hosts:
            path = self.cluster.output(host) / "history"
            for line in path.read_text().splitlines() if path.exists() else []:
                try:
                    events.append(json.loads(line))
                except ValueError:
                    continue  # the power went while it was written
        count = Counter(event["event"] for event in events)
        self.say(f"history: {dict(count)}; workers {len(self.logs)}; faults {dict(self.done)}")
        archive = self.cluster.output("server") / "spool.tar"
        self.cluster.shell("server", f"tar -C {self.cluster.truth} -cf {OUT}/spool.tar .")
        root = archive.with_name("spool")
        with tarfile.open(archive) as packed:
            packed.extractall(root, filter="fully_trusted")
        killed = sum(job.door == "killed cli" for job in self.plan.jobs)
        logs = [text for job in self.logs if "Traceback" in (text := said(job))]
        return (
            checker.check_history(events, hosts=len(self.cluster.hosts))
            + checker.check_spool(root, events, abandoned_drafts=self.drafts + killed)
            + [f"{host}: processes of jobs are alive" for host in self.cluster.hosts if self.cluster.jobs_alive(host)]
            + [f"a worker printed a traceback: {text[-3000:]}" for text in logs]
        )


def run(lab: Any, seed: int, seconds: float, jobs: int, say: Callable[[str], None]) -> list[str]:
    """One run on a lab that is up; what was broken."""
    cluster = Cluster(lab, f"chaos-{seed}")
    for host in cluster.hosts:
        for name in ("history", "jobs", "jobs.begun"):
            (cluster.output(host) / name).unlink(missing_ok=True)
    chaos = Chaos(cluster, seed, seconds, jobs, say)
    try:
        return chaos.run()
    finally:
        chaos._wait(time.monotonic(), everything=True)
        for number, job in enumerate(chaos.logs):
            signal_job(job, 9)
            (cluster.output(job.name) / f"worker-log.{number}").write_text(said(job))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nfs.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--jobs", type=int, default=0, help="two a second, if it isn't said")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--vers", default="4.2")
    parser.add_argument("--keep", type=Path, help="where to leave the histories, logs and the spool")
    given = parser.parse_args()
    if reason := missing():
        sys.exit(f"{reason} (looked in {LAB})")
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with boot(given.clients, given.vers, out=str(given.keep) if given.keep else None) as lab:
        broken = run(lab, seed, given.seconds, given.jobs or int(2 * given.seconds), print)
    for sentence in broken[:40]:
        print(f"BROKEN: {sentence}")
    print(f"seed {seed}: {len(broken)} promises broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
