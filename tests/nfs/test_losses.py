"""Hosts, networks and servers fail, one at a time: nothing is lost, doubled or wrongly refused."""

from __future__ import annotations

import time
from typing import Any

from tests.nfs.cluster import POLL_INTERVAL, PYTHON, STALE_AFTER, Cluster, pause, said
from tests.support import until

TAKEN_OVER = STALE_AFTER + 8.0  # seconds within which a lost host's job runs elsewhere, on this noisy machine
FENCE = STALE_AFTER / 2


def run_there_and_wait(cluster: Cluster, here: str, there: str) -> dict[str, Any]:
    """A long job runs on `there`, which works alone at first; then a worker begins on `here`."""
    workers = {there: cluster.worker(there)}
    cluster.queuectl(here, "enqueue", "--id", "long", "--max-retries", "5", cluster.heartbeat_of_job(300))
    until(lambda: cluster.signs(there, "long", 1), 20, "it runs there")
    workers[here] = cluster.worker(here)
    until(lambda: sum(name.endswith(".json") for name in cluster.names("workers")) == 2, 20)
    return workers


def finish(cluster: Cluster, host: str, job_id: str = "long") -> None:
    """Cancel what would run for minutes, so that the rest can be looked at."""
    assert "cancelled" in cluster.queuectl(host, "cancel", job_id)


def test_a_host_that_loses_power_is_replaced_and_comes_back_clean(cluster: Cluster) -> None:
    here, there = cluster.hosts
    workers = run_there_and_wait(cluster, here, there)
    cut = time.time()
    cluster.lab.kill(there)
    again = until(lambda: cluster.signs(here, "long", 2), TAKEN_OVER, "the job runs on the other host")
    assert again[0] - cut > STALE_AFTER - 1, "not before it may be taken for dead"
    cluster.lab.boot(there)
    cluster.lab.mount(there)
    workers[there] = cluster.worker(there)
    cluster.queuectl(there, "enqueue", "--id", "next", cluster.witness("ran"))
    until(lambda: cluster.witnesses("ran"), 20)
    assert [host for host, _ in cluster.witnesses("ran")] == [there], "the other is busy"
    finish(cluster, there)
    history = cluster.records("dead")["long"]["history"]
    assert [(entry["attempt"], entry.get("reason")) for entry in history] == [(1, "lost"), (2, "cancelled")]
    cluster.queuectl(here, "worker", "stop", limit=20)
    counts = cluster.counts()
    assert (counts["workers"], counts[".tmp"], counts["processing"]) == (0, 0, 0), "what the dead one left is swept"


def test_a_host_that_freezes_is_replaced_and_fenced_when_it_thaws(cluster: Cluster) -> None:
    here, there = cluster.hosts
    workers = run_there_and_wait(cluster, here, there)
    cluster.lab.pause(there)
    try:
        until(lambda: cluster.signs(here, "long", 2), TAKEN_OVER, "the job runs on the other host")
    finally:
        cluster.lab.resume(there)
    thawed = time.time()
    until(lambda: "lost" in said(workers[there]), 15, "it finds out")
    until(lambda: not cluster.jobs_alive(there), 10, "its processes are killed")
    first, second = cluster.signs(there, "long", 1), cluster.signs(here, "long", 2)
    assert first is not None
    assert second is not None
    assert first[1] - thawed < FENCE, f"it lived for {first[1] - thawed:.1f} s after it had thawed"
    finish(cluster, here)
    history = cluster.records("dead")["long"]["history"]
    assert [entry.get("reason") for entry in history] == ["lost", "cancelled"], "the first result is not there twice"
    cluster.queuectl(here, "enqueue", "--id", "a", cluster.witness("ran"))
    until(lambda: cluster.witnesses("ran"), 20)
    cluster.queuectl(here, "worker", "stop", limit=30)
    assert [job.wait(10).code for job in workers.values()] == [0, 0]


def test_a_host_that_is_cut_off_kills_its_jobs_before_others_take_them(cluster: Cluster) -> None:
    """Rows 31 and 32. Attempts on two hosts don't overlap: the first is dead half of `stale-after` before."""
    here, there = cluster.hosts
    workers = run_there_and_wait(cluster, here, there)
    cut = time.time()
    cluster.lab.partition(there)
    try:
        second = until(lambda: cluster.signs(here, "long", 2), TAKEN_OVER, "the job runs on the other host")
        first = cluster.signs(there, "long", 1)
        assert first is not None
        assert first[1] - cut < FENCE + 1.5, f"it lived for {first[1] - cut:.1f} s after the cut"
        assert first[1] < second[0], "no overlap"
    finally:
        cluster.lab.heal()
    cluster.queuectl(here, "enqueue", "--id", "next", cluster.witness("ran"))
    until(lambda: cluster.witnesses("ran"), 40, "it goes on when the spool is back")
    assert [host for host, _ in cluster.witnesses("ran")] == [there]
    finish(cluster, here)
    cluster.queuectl(here, "worker", "stop", limit=30)
    assert [job.wait(10).code for job in workers.values()] == [0, 0]
    assert cluster.counts()["workers"] == 0


def test_nothing_that_others_must_move_is_lent_to_a_host(cluster: Cluster) -> None:
    """A delegation (NFS 4) is taken back before anybody may rename or remove the file. From a host that is cut off it
    cannot be: the worker that recovered its jobs stood still until the server's lease was over, 90 s by default."""
    here, there = cluster.hosts
    run_there_and_wait(cluster, here, there)
    beats = cluster.now()
    until(lambda: cluster.now() - beats > 4 * POLL_INTERVAL, 10, "both have looked around")
    states = cluster.shell("server", "cat /proc/fs/nfsd/clients/*/states 2> /dev/null || :").splitlines()
    moved = ("workers/", "processing/", "pending/", "failed/", "completed/", "dead/", ".tmp/", "logs/")
    assert [line for line in states if "type: deleg" in line and any(place in line for place in moved)] == []
    finish(cluster, here)


def test_replies_that_are_lost_with_the_server_lose_and_double_nothing(cluster: Cluster) -> None:
    """Rows 24 and 26: what was asked is done, the answer is lost, and the server forgets that it has answered."""
    here, there = cluster.hosts
    with cluster.workers("--count", "3"):
        enqueuing = cluster.start(here, ["sh", "-c", enqueue_script(cluster, here, 40)])
        dropping = cluster.start(there, ["sh", "-c", enqueue_script(cluster, there, 40)])
        until(lambda: len(cluster.witnesses("ran")) >= 4, 40, "enqueue, claims and settles are under way")
        cluster.lab.drop("server", "any")
        pause(1.0)
        cluster.lab.reboot("server")
        cluster.lab.heal()
        accepted = [job.wait(120) for job in (enqueuing, dropping)]
        cluster.await_drained(90)
        check_against(cluster, accepted)


def test_the_service_restarts_five_times_under_load(cluster: Cluster) -> None:
    here, there = cluster.hosts
    with cluster.workers("--count", "3") as workers:
        enqueuing = [cluster.start(host, ["sh", "-c", enqueue_script(cluster, host, 60)]) for host in (here, there)]
        until(lambda: cluster.witnesses("ran"), 40)
        for _ in range(5):
            cluster.lab.nfsd_restart(down=0.5)
            pause(1.0)
        accepted = [job.wait(180) for job in enqueuing]
        cluster.await_drained(120)
        check_against(cluster, accepted)
        assert not any("Traceback" in said(job) for job in workers.values())


def enqueue_script(cluster: Cluster, host: str, jobs: int) -> str:
    """A program that enqueues one job after the other, and prints the ids that were accepted."""
    code = (
        "import sys; from queuectl.spool import Spool; s = Spool();\n"
        f"for n in range({jobs}):\n"
        f"    print(s.enqueue(command={cluster.witness('ran')!r}, id='{host}-%d' % n, max_retries=50), flush=True)\n"
    )
    return f"exec {PYTHON[0]} -c \"$(cat <<'CODE'\n{code}CODE\n)\""


def check_against(cluster: Cluster, results: list[Any]) -> None:
    """Each accepted job has one file, in completed/; who was told that his job is accepted was told the truth, and
    nobody was refused for nothing."""
    accepted: list[str] = []
    for result in results:
        assert (result.code, result.err) == (0, ""), result.err
        accepted += result.out.split()
    records = cluster.records()
    assert records.keys() == set(accepted)
    assert cluster.count("dead") == 0
    for job_id, body in records.items():
        numbers = [entry["attempt"] for entry in body["history"]]
        assert numbers == sorted(set(numbers)), f"{job_id}: {numbers}"
        assert body["history"][-1]["exit_code"] == 0
    ran = [line for _, line in cluster.witnesses("ran")]
    assert len(ran) == len(set(ran)), "no attempt ran twice"
