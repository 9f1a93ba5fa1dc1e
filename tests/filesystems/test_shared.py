"""Shared file systems besides NFS (which has a lab of its own): one directory, mounted twice. Claims are exclusive,
jobs run once, and two doctors see each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.filesystems.shares import glusterfs, sshfs
from tests.filesystems.test_kinds import RACE
from tests.support import at_once, environment, listing, needs_root, queuectl, until, worker

pytestmark = needs_root

KINDS: dict[str, Callable[[Path], object]] = {"sshfs": sshfs, "glusterfs": glusterfs}
CLAIMS, JOBS = 500, 60


@pytest.fixture(params=list(KINDS))
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    """A spool on a shared file system, by its two paths."""
    with KINDS[request.param](tmp_path / "share") as points:  # type: ignore[attr-defined]
        made = queuectl(points[0] / "spool", "init")
        assert made.returncode == 0, made.stderr
        assert queuectl(points[0] / "spool", "config", "set", "min-free", "0").returncode == 0
        yield request.param, [point / "spool" for point in points]


def meet(roots: list[Path]) -> list[dict[str, dict[str, str]]]:
    """What two doctors find, each through its own mount, by check."""
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "queuectl", "--spool", root, "doctor", "--peer", "--json"], stdout=subprocess.PIPE,
            text=True, env=environment(QUEUECTL_PRETEND_HOST=name),
        )
        for root, name in zip(roots, ("alpha", "beta"), strict=True)
    ]  # fmt: skip
    return [{f["check"]: f for f in json.loads(one.communicate(timeout=120)[0])["findings"]} for one in both]


def test_two_mounts_share_a_spool(mounts: tuple[str, list[Path]]) -> None:
    """One test, because a mount takes seconds: the race, the jobs, and the doctors."""
    kind, roots = mounts
    first = Spool(roots[0], create=False)

    ids = first.enqueue_many([{"command": "true"}] * CLAIMS)
    printed = at_once(RACE, [[str(root)] for root in roots * 2], limit=120)
    won = [job_id for line in printed for job_id in json.loads(line.splitlines()[-1])]
    assert sorted(won) == sorted(ids), "each was claimed once"
    for name in listing(first, "processing"):
        os.unlink(first.dir("processing") + name)

    ran = roots[0].parent / "ran"
    for root in roots:
        Spool(root, create=False).enqueue_many(
            [{"command": f"echo $QUEUECTL_JOB_ID >> {ran}.$QUEUECTL_WHO", "max_retries": 0}] * (JOBS // 2)
        )
    options = ("--count", "2", "--poll-interval", "0.3")
    with (
        worker(roots[0], *options, QUEUECTL_PRETEND_HOST="alpha", QUEUECTL_WHO="alpha"),
        worker(roots[1], *options, QUEUECTL_PRETEND_HOST="beta", QUEUECTL_WHO="beta"),
    ):
        until(lambda: len(listing(first, "completed")) == JOBS, 120, "all jobs have ended well")
        lines = [line for who in ("alpha", "beta") for line in Path(f"{ran}.{who}").read_text().split()]
        assert sorted(lines) == sorted(name.removesuffix(".json") for name in listing(first, "completed"))

    for found in meet(roots):
        for check in ("rename", "exclusive create", "symbolic link", "other host", "claims"):
            assert found[check]["level"] == "green", found[check]
        for check in ("seen by listing", "seen by open"):  # how soon depends on how busy this machine is
            assert found[check]["level"] in ("green", "yellow"), found[check]
        assert found["told by inotify"]["found"] == "nothing, as expected: workers list this file system"
        shared = "not shared" if kind == "sshfs" else "shared"
        assert found["lock across hosts"]["found"] == shared


def test_an_sshfs_that_caches_listings_is_no_place_for_several_hosts(tmp_path: Path) -> None:
    with sshfs(tmp_path / "share", cached=True) as points:
        roots = [point / "spool" for point in points]
        assert queuectl(roots[0], "init").returncode == 0
        for found in meet(roots):
            assert found["other host"]["level"] == found["seen by listing"]["level"] == "red"
            assert "dir_cache=no" in found["seen by listing"]["remedy"]
