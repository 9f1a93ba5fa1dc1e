"""What a job costs the server, and what a queue that is shared costs: the bounds that docs/scaling.md counts on."""

from __future__ import annotations

from typing import Any

from tests.nfs.cluster import Cluster
from tests.nfs.measure import DEFAULTS, Measured, work_off

LOOKS = 2.0  # operations per second of a worker that polls seldom: free space, heartbeat
SELDOM = "poll-interval = 30\n"  # on a slow machine there would be more looks for each job


def test_a_job_costs_twelve_operations_from_claim_to_settle(two: Any) -> None:
    """What the start costs is the same for few jobs and for many, so the difference counts. Looks, which cost the same
    whether there are jobs or not, are left out."""
    few, many = (_of_no_op_jobs(two, jobs) for jobs in (60, 210))
    operations = sum(many.operations.values()) - sum(few.operations.values())
    looks = LOOKS * (many.seconds - few.seconds)
    assert (operations - looks) / (many.jobs - few.jobs) <= 12, (few, many)


def _of_no_op_jobs(two: Any, jobs: int) -> Measured:
    cluster = Cluster(two, f"figures-{jobs}-" + two.conf["vers"], DEFAULTS + SELDOM)
    try:
        return work_off(cluster, "true", jobs, 1, 4)
    finally:
        cluster.end()


def test_two_hosts_on_one_queue_lose_few_races(two: Any) -> None:
    cluster = Cluster(two, "races-" + two.conf["vers"], DEFAULTS)
    try:
        found = work_off(cluster, "exec sleep 0.5", 60, 2, 3)
    finally:
        cluster.end()
    assert found.failed_per_claim <= 0.3, found
