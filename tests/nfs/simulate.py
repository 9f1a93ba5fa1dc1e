"""python -m tests.nfs.simulate: how often do many hosts try to claim the same job?

The window is the worker's own (core/window.py), and so is the order in which it is used (worker.py, lookout.py); time,
the server and the hosts are simulated. One line for each number of hosts: failed renames per claim, and how busy the
slots were. docs/scaling.md shows it beside what was measured.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Sequence
from typing import NamedTuple

from queuectl.core.window import Window
from queuectl.lookout import FEW, SCAN_SHARE

NOW, FUTURE = "20260101T000000", "20270101T000000"


class Job(NamedTuple):
    name: str
    id: str
    priority: int
    not_before: str
    needs: str = ""


class Server:
    """What is pending; each operation takes `rtt` seconds."""

    def __init__(self, rtt: float) -> None:
        self.rtt = rtt
        self.pending: dict[str, Job] = {}

    def add(self, number: int) -> None:
        job = Job(f"{NOW}.{number:09}.json", f"job{number}", 0, f"{NOW}.{number:09}")
        self.pending[job.name] = job


class Host:
    """One worker. `busy_until` has the end of each running job; the host itself does one thing at a time."""

    def __init__(self, place: int, hosts: int, slots: int, poll: float) -> None:
        self.window = Window()
        self.window.divide(place, [frozenset()] * hosts)
        self.poll = poll
        self.slots = slots
        self.running: list[float] = []
        self.losses = 0
        self.scan_at = random.random() * poll
        self.last_scan = (0.0, 0.0)

    def scan(self, server: Server, now: float) -> float:
        """List everything; when that is done."""
        self.window.clear()
        self.losses = 0
        for job in server.pending.values():
            self.window.offer(job, FUTURE)
        done = now + server.rtt * (1 + len(server.pending) / 100)  # READDIR gives about a hundred names at a time
        self.last_scan = done, done - now
        pause = self.poll * (0.75 + random.random() / 2)
        self.scan_at = done + (max(pause, SCAN_SHARE * (done - now)) if len(server.pending) > FEW else pause)
        return done


class Result(NamedTuple):
    claims: int
    failed: int
    seconds: float
    busy: float  # the part of all slots' time in which they ran something


def simulate(
    hosts: int, jobs: int, *, slots: int = 4, length: float = 1.0, rate: float = 0.0, rtt: float = 0.001,
    poll: float = 1.0,
) -> Result:  # fmt: skip
    """`jobs` jobs of `length` seconds, all there at the beginning, or arriving at `rate` per second."""
    server = Server(rtt)
    arrivals = [(number / rate if rate else 0.0) for number in range(jobs)]
    fleet = [Host(place, hosts, slots, poll) for place in range(hosts)]
    claims = failed = arrived = 0
    end = 0.0
    turns = [(host.scan_at, number) for number, host in enumerate(fleet)]
    heapq.heapify(turns)
    while claims < jobs:
        now, number = heapq.heappop(turns)
        while arrived < jobs and arrivals[arrived] <= now:
            server.add(arrived)
            arrived += 1
        host = fleet[number]
        while host.running and host.running[0] <= now:
            heapq.heappop(host.running)
        if now >= host.scan_at:
            now = host.scan(server, now)
        elif len(host.running) < host.slots and (
            job := host.window.pop(random.randrange(host.window.spread() + 2 * host.losses))
        ):
            now += server.rtt
            if server.pending.pop(job.name, None):
                claims += 1
                host.losses = 0
                heapq.heappush(host.running, now + length)
                end = max(end, now + length)
            else:
                failed += 1
                host.losses += 1
                last, took = host.last_scan
                host.scan_at = min(host.scan_at, max(now, last + SCAN_SHARE * took))
        else:
            wake = host.scan_at
            if host.running and len(host.window):
                wake = min(wake, host.running[0])
            now = max(now, wake)
        heapq.heappush(turns, (now, number))
    return Result(claims, failed, end, jobs * length / (end * hosts * slots))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.nfs.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=100, help="for each slot")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--length", type=float, default=1.0, help="of a job, seconds")
    parser.add_argument("--load", type=float, default=0.0,
                        help="arrivals, as a part of what the slots can do; 0: all at once")  # fmt: skip
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64, 100])
    given = parser.parse_args(arguments)
    random.seed(given.seed)
    print("hosts  failed per claim  slots busy")
    for hosts in given.hosts:
        rate = given.load * hosts * given.slots / given.length
        found = simulate(hosts, given.jobs * given.slots * hosts, slots=given.slots, length=given.length, rate=rate)
        print(f"{hosts:5}  {found.failed / found.claims:16.3f}  {found.busy:10.3f}")


if __name__ == "__main__":
    main()
