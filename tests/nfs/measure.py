"""python -m tests.nfs.measure: the figures of docs/scaling.md, measured in the lab.

NFS operations per job, counted by the clients themselves (mountstats); jobs per second and failed renames per claim
with 1, 2, 4 and 8 clients; seconds from a drop on one host to the start on another.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tests.nfs.cluster import OUT, Cluster, boot
from tests.support import until

DEFAULTS = 'log-level = "warning"\n'  # else all as it comes out of the box


class Measured(NamedTuple):
    """One queue that was worked off. `operations` are those of all clients, by kind; `seconds` from the first start to
    the last end, by the server's clock."""

    jobs: int
    clients: int
    seconds: float
    operations: Counter[str]
    failed_renames: int

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds

    @property
    def per_job(self) -> float:
        return sum(self.operations.values()) / self.jobs

    @property
    def failed_per_claim(self) -> float:
        return self.failed_renames / self.jobs


def work_off(cluster: Cluster, command: str, jobs: int, clients: int, slots: int, limit: float = 300.0) -> Measured:
    """Workers on the first `clients` hosts work off a queue that the last host fills. It is full when they begin, and
    their idle looks are counted too."""
    hosts = cluster.hosts[:clients]
    batch = cluster.output(cluster.hosts[-1]) / "batch"
    batch.write_text("\n".join(json.dumps({"command": command}) for _ in range(jobs)) + "\n")
    cluster.queuectl(cluster.hosts[-1], "enqueue", "--batch", f"{OUT}/batch", limit=120)
    before = {host: cluster.operations(host) for host in hosts}
    failed = {host: cluster.failed_renames(host) for host in hosts}
    with cluster.workers("--count", str(slots), hosts=hosts):
        until(lambda: cluster.count("completed") >= jobs, limit, f"{jobs} jobs have completed")
        after = {host: cluster.operations(host) for host in hosts}
        lost = sum(cluster.failed_renames(host) - failed[host] for host in hosts)
    runs = [body["history"][-1] for body in cluster.records().values()]
    said = (run[key] for run in runs for key in ("started_at", "finished_at"))
    times = sorted(datetime.fromisoformat(text).timestamp() for text in said)
    operations: Counter[str] = Counter()
    for host in hosts:
        operations += after[host] - before[host]
    return Measured(jobs, clients, times[-1] - times[0], operations, lost)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.nfs.measure", description=__doc__)
    parser.add_argument("--vers", default="4.2")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--what", nargs="*", default=["operations", "long", "short", "start"])
    given = parser.parse_args(arguments)
    with boot(max(*given.clients, 2), given.vers) as lab:
        for what in given.what:
            globals()["_" + what](lab, given, say)


def _cluster(lab: Any, name: str) -> Cluster:
    return Cluster(lab, f"measure-{name}", DEFAULTS)


def _operations(lab: Any, given: argparse.Namespace, say: Callable[[str], None]) -> None:
    for command in ("true", "echo hello"):
        cluster = _cluster(lab, f"operations-{len(command)}")
        found = work_off(cluster, command, 300, 1, 4)
        kinds = ", ".join(f"{kind} {count / found.jobs:.2f}" for kind, count in found.operations.most_common())
        say(f"NFS {given.vers}: `{command}`: {found.per_job:.2f} operations per job, {found.rate:.1f} jobs/s: {kinds}")


def _long(lab: Any, given: argparse.Namespace, say: Callable[[str], None]) -> None:
    one = 0.0
    for clients in given.clients:
        found = work_off(_cluster(lab, f"long-{clients}"), "exec sleep 1", 60 * clients, clients, 3)
        one = one or found.rate / clients
        say(f"NFS {given.vers}: 1 s jobs, 3 slots each, {clients} clients: {found.rate:.2f} jobs/s,"
            f" {found.rate / one / clients:.3f} of {clients} x one; {_cost(found)}")  # fmt: skip


def _short(lab: Any, given: argparse.Namespace, say: Callable[[str], None]) -> None:
    for clients in given.clients:
        found = work_off(_cluster(lab, f"short-{clients}"), "true", 200 * clients, clients, 4)
        each = found.rate / clients
        say(f"NFS {given.vers}: no-op jobs, {clients} clients: {found.rate:.1f} jobs/s, {each:.1f} each;"
            f" {_cost(found)}")  # fmt: skip


def _cost(found: Measured) -> str:
    return f"{found.failed_per_claim:.3f} failed renames per claim; {found.per_job:.1f} operations per job"


def _start(lab: Any, given: argparse.Namespace, say: Callable[[str], None]) -> None:
    from tests.nfs.test_sharing import drop_to_start

    cluster = _cluster(lab, "start")
    here, there = cluster.hosts[:2]
    with cluster.workers(hosts=[there]):
        late = drop_to_start(cluster, here, there, 50)
    say(f"NFS {given.vers}: from drop to start, poll-interval 1 s: median {late[24]:.2f} s, p95 {late[47]:.2f} s, most"
        f" {late[-1]:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
