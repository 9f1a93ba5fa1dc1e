"""Disks that are full, read-only, over quota or gone under a worker: nothing is lost, it says so, and goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from queuectl.spool import Spool
from queuectl.worker import TROUBLE_PAUSE
from tests.filesystems.mounts import fill, loop, run, tmpfs, unmount
from tests.support import leftovers, listing, needs_root, places, queuectl, state_of, until, worker

pytestmark = needs_root


def test_on_a_full_disk_enqueue_fails_clearly_and_leaves_nothing(on_ext4: Spool) -> None:
    kept = queuectl(on_ext4, "enqueue", "true").stdout.strip().split()[-1]
    ballast = fill(Path(on_ext4.root).parent)
    refused = queuectl(on_ext4, "enqueue", "echo " + "x" * 60_000)
    assert refused.returncode == 3, refused
    assert "make room" in refused.stderr
    assert leftovers(on_ext4) == []
    assert state_of(on_ext4, kept) == "pending"
    assert len(listing(on_ext4, "pending")) == 1
    ballast.unlink()
    assert queuectl(on_ext4, "enqueue", "echo " + "x" * 60_000).returncode == 0


def test_a_full_disk_stops_claims_and_work_goes_on_when_there_is_room(on_ext4: Spool) -> None:
    gate = Path(on_ext4.root).parent.parent / "gate"
    running = on_ext4.enqueue(f"until [ -e {gate} ]; do read -t 0.05 x </dev/zero; sleep 0.02; done")
    with worker(on_ext4, "--min-free", "1M") as process:
        until(lambda: state_of(on_ext4, running) == "processing", what="the job runs")
        waiting = on_ext4.enqueue("true")
        ballast = fill(Path(on_ext4.root).parent)
        gate.touch()
        until(lambda: state_of(on_ext4, running) == "completed", what="the running job is settled on a full disk")
        until(lambda: "no job is started" in process.said, what="it says why it starts nothing")
        assert process.said.count("No space left") <= 2, "it says the same again and again"
        assert state_of(on_ext4, waiting) == "pending"
        ballast.unlink()
        until(lambda: state_of(on_ext4, waiting) == "completed", what="it goes on")
        assert process.end() == 0


def test_without_inodes_enqueue_fails_clearly_and_works_again(tmp_path: Path) -> None:
    with loop(tmp_path / "disk", "ext4", 16, "-N", "64") as disk:
        spool = Spool(disk / "spool")
        made = []
        for number in range(64):
            path = disk / f"taken{number}"
            try:
                path.touch()
            except OSError:
                break
            made.append(path)
        refused = queuectl(spool, "enqueue", "true")
        assert refused.returncode == 3, refused
        assert "inodes" in refused.stderr
        assert leftovers(spool) == []
        assert listing(spool, "pending") == []
        for path in made:
            path.unlink()
        assert queuectl(spool, "enqueue", "true").returncode == 0


def test_over_quota_enqueue_fails_clearly_and_works_again(tmp_path: Path) -> None:
    with loop(tmp_path / "disk", "btrfs", 200) as disk:
        if run("btrfs", "quota", "enable", disk, check=False):
            pytest.skip("this kernel has no btrfs quota")
        run("btrfs", "subvolume", "create", disk / "sub")
        spool = Spool(disk / "sub" / "spool")
        run("btrfs", "qgroup", "limit", "4M", disk / "sub")
        refused = 0
        for _ in range(40):
            done = queuectl(spool, "enqueue", "echo " + "x" * 120_000)
            if done.returncode:
                assert done.returncode == 3, done
                assert "quota" in done.stderr.lower(), done.stderr
                refused += 1
                break
        assert refused, "the quota was never met"
        assert leftovers(spool) == []
        run("btrfs", "qgroup", "limit", "none", disk / "sub")
        assert queuectl(spool, "enqueue", "true").returncode == 0


def test_remounted_read_only_and_back_the_outcome_is_recorded(on_ext4: Spool) -> None:
    disk = Path(on_ext4.root).parent
    gate = disk.parent / "gate"
    job_id = on_ext4.enqueue(f"touch {gate}.waits; until [ -e {gate} ]; do sleep 0.02; done")
    on_ext4.enqueue("true", id="waits")
    with worker(on_ext4, "--min-free", "0") as process:
        # A claim is not enough: a log that is opened through the new mount would keep it from being read-only.
        until(Path(f"{gate}.waits").exists, what="the job runs")
        # A disk that is open for writing cannot be remounted; so the same one is mounted above, read-only.
        run("mount", "--bind", on_ext4.root, on_ext4.root)
        run("mount", "-o", "remount,bind,ro", on_ext4.root)
        gate.touch()
        until(lambda: "read-only" in process.said.lower(), what="it says that the disk is read-only")
        refused = queuectl(on_ext4, "enqueue", "true")
        assert refused.returncode == 3, refused
        assert state_of(on_ext4, job_id) == "processing"
        assert "The file system is read-only here, and no job is started" in queuectl(on_ext4, "status").stderr
        until(lambda: "move a job" in process.said, what="it tries to take the next job")
        tried = time.monotonic()
        until(lambda: time.monotonic() > tried + 1.2 * TROUBLE_PAUSE, what="it tries again")
        assert "the trouble is over" not in process.said
        run("umount", "-l", on_ext4.root)
        until(lambda: state_of(on_ext4, job_id) == "completed", what="the outcome is recorded when it is writable")
        assert process.end() == 0


def test_unmounted_under_a_worker_it_says_so_and_does_not_take_the_hole_for_a_queue(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    keep = tmp_path / "keep"
    with tmpfs(disk):
        spool = Spool(disk)
        keep.mkdir()
        run("mount", "--bind", disk, keep)
        try:
            with worker(disk, "--min-free", "0") as process:
                unmount(disk)
                assert os.listdir(disk) == []
                os.utime(keep / "workers")
                # a hint wakes it through the mount that is still there
                (keep / "pending" / "x.json").write_text('{"command": "true", "id": "x"}')
                until(lambda: "unmounted" in process.said or "spool" in process.said.split("works on", 1)[-1],
                      what="it says that the spool is gone")
                refused = queuectl(disk, "list")
                assert refused.returncode == 3, refused
                assert os.listdir(disk) == [], "a new spool was made in the empty mount point"
                run("mount", "--bind", keep, disk)
                until(lambda: state_of(spool, "x") == "completed", 15, "it goes on when the spool is back")
                assert process.end() == 0
                unmount(disk)
        finally:
            unmount(keep)
    assert places(tmp_path, "x") == [] if (tmp_path / "pending").exists() else True


def test_a_job_that_prints_without_end_neither_fills_a_small_disk_nor_waits(tmp_path: Path) -> None:
    """Three times what the disk holds; the head of a pipe ends with an error when the disk is full."""
    with loop(tmp_path / "disk", "ext4", 1024) as disk:
        spool = Spool(disk / "spool")
        with worker(spool, "--max-log", "16M") as process:
            # Its last word comes when the last cut is over: what is printed in the very moment of one may be left out.
            last = f"touch {tmp_path}/flooded; until [ -e {tmp_path}/go ]; do sleep 0.01; done; echo ended"
            flood = spool.enqueue(f"echo begun; yes | head -c 3000000000 && {{ {last}; }}", max_retries=0)
            other = spool.enqueue("true")
            until((tmp_path / "flooded").exists, 300, what="all is printed")
            until(lambda: spool.log_size(f"{flood}.1.log") <= 16 << 20, what="the log is cut")
            (tmp_path / "go").touch()
            until(lambda: state_of(spool, flood) in ("completed", "dead"), 300, what="the flood ends")
            assert state_of(spool, flood) == "completed", process.said
            until(lambda: state_of(spool, other) == "completed", what="the job behind it runs")
            assert process.end() == 0
        kept = Path(spool.dir("logs"), f"{flood}.1.log").read_bytes()
        assert len(kept) <= 16 << 20
        assert (kept[:6], kept[-6:]) == (b"begun\n", b"ended\n")


def test_a_disk_that_a_dead_workers_job_has_filled_is_emptied_by_the_next_worker(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "32m") as disk:
        spool = Spool(disk / "spool")
        with worker(spool, "--max-log", "none", "--min-free", "1M") as process:
            flood = spool.enqueue("[ $QUEUECTL_ATTEMPT = 2 ] || { kill -KILL $PPID; exec cat /dev/zero; }")
            process.process.wait(20)
        log = Path(spool.dir("logs"), f"{flood}.1.log")
        until(lambda: os.statvfs(disk).f_bavail == 0, 20, what="the disk is full")
        assert queuectl(spool, "enqueue", "true").returncode == 3
        with worker(spool, "--max-log", "1M", "--min-free", "1M", "--backoff-base", "0"):
            until(lambda: state_of(spool, flood) == "completed", 20, what="the job is recovered, and runs again")
        assert log.stat().st_size <= 1 << 20
