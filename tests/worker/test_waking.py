"""What wakes a worker, and what it must not take for silence: replaced directories, lost events, no inotify at all."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from queuectl.spool import Spool
from queuectl.wakeup import Wakeup
from tests.support import drop, environment, listing, queuectl, until, worker


def runs(spool: Spool, name: str) -> None:
    """A job that is dropped now runs."""
    drop(spool, f"{name}.json", {"command": "true", "id": name})
    until(lambda: spool.has_ended(name, "completed"), 20, what=f"{name}, which was dropped, runs")


def test_pending_is_moved_away_and_made_again(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        runs(spool, "before")
        os.rename(spool.dir("pending"), tmp_path / "away")
        until(lambda: os.path.isdir(spool.dir("pending")), what="the worker makes pending/ again")
        runs(spool, "after")
        assert process.end() == 0


def test_pending_is_removed_and_made_again(spool: Spool) -> None:
    with worker(spool) as process:
        runs(spool, "before")
        shutil.rmtree(spool.dir("pending"))
        os.makedirs(spool.dir("pending"), exist_ok=True)
        runs(spool, "after")
        assert process.end() == 0


def test_a_hard_link_into_pending_is_noticed(spool: Spool, tmp_path: Path) -> None:
    with worker(spool):
        (tmp_path / "draft").write_text('{"command": "true", "id": "linked"}')
        os.link(tmp_path / "draft", spool.dir("pending") + "x.json")
        os.unlink(tmp_path / "draft")
        until(lambda: spool.has_ended("linked", "completed"), what="the linked job runs")


def test_events_that_the_kernel_drops_are_made_up_for_by_a_scan(spool: Spool) -> None:
    with worker(spool, "--count", "2") as process:
        runs(spool, "before")
        os.kill(process.pid, signal.SIGSTOP)
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        # Fill the kernel's queue with events that say nothing, then drop jobs: their events are lost.
        noise = [spool.dir("pending") + f"{n}.part" for n in (1, 2)]
        Path(noise[0]).touch()
        for n in range(limit + 10):
            os.rename(noise[n % 2], noise[1 - n % 2])
        for n in range(20):
            drop(spool, f"{n}.json", {"command": "true", "id": f"late-{n}"})
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: len(listing(spool, "completed")) == 21, 30, what="the dropped jobs run")


def test_without_inotify_the_spool_is_listed(spool: Spool) -> None:
    program = (
        "import sys, watchdog.observers.inotify_c as c\n"
        "def refuse(*_): raise OSError(24, 'inotify instance limit reached')\n"
        "c.InotifyFD._create_inotify_fd = classmethod(refuse)\n"
        "from queuectl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--spool", spool.root, "worker", "start", "--poll-interval", "0.1"],
        stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        until(lambda: any(name.endswith(".json") for name in listing(spool, "workers")), what="it works")
        for n in range(3):
            runs(spool, f"j{n}")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "raise fs.inotify.max_user_instances with sysctl; the spool is listed instead" in said


def test_watching_that_fails_again_and_again_leaks_no_descriptors(spool: Spool) -> None:
    """It is tried every five seconds. A user has 128 inotify instances."""
    wakeup = Wakeup({"pending": spool.dir("pending"), "away": spool.root + "/away"})
    try:
        assert not wakeup.start()
        before = len(os.listdir("/proc/self/fd"))
        assert not any(wakeup.start() for _ in range(10))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        wakeup.stop()


def test_bad_files_are_set_aside_while_the_worker_goes_on(spool: Spool) -> None:
    with worker(spool) as process:
        drop(spool, "broken.json", '{"command": ')
        drop(spool, "nothing.json", '{"comand": "typo"}')
        os.mkfifo(spool.dir("pending") + "fifo.json")
        os.mkdir(spool.dir("pending") + "directory.json")
        os.symlink("/etc/shadow", spool.dir("pending") + "link.json")
        runs(spool, "good")
        until(lambda: len([n for n in listing(spool, "dead") if n.endswith(".rejected")]) == 4, 20,
              what="four files are set aside")  # fmt: skip
        assert process.end() == 0
    assert listing(spool, "pending") == ["directory.json"]
    assert Path(spool.root, "dead", "broken.json.rejected").read_text() == '{"command": '


def switches(pid: int) -> Counter[str]:
    """How often each thread of a process has gone to sleep, or was put to sleep. One that sleeps on gains none."""
    found: Counter[str] = Counter()
    for thread in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        found[thread] = sum(int(line.split()[1]) for line in text.splitlines() if "_ctxt_switches" in line)
    return found


def test_an_idle_worker_wakes_for_its_heartbeat_only(spool: Spool) -> None:
    """Ten beats in a row with one thread awake, and that one not much oftener than it beats.

    The kernel's own counts are read, because strace wakes what it looks at. When a job can be seen to have ended, its
    directory may still be on its way to a slow disk, and a scan comes each 30 s: so the ten may begin later than at
    once. Whoever wakes oftener than every 5 s is never quiet for so long.
    """
    with worker(spool, "--heartbeat", "0.5", "--count", "8") as process:
        runs(spool, "first")
        (lease,) = [Path(spool.dir("workers"), name) for name in listing(spool, "workers") if name.endswith(".json")]
        beats, start, deadline = 0, switches(process.pid), time.monotonic() + 60
        while beats < 10:
            before = lease.stat().st_mtime_ns
            until(lambda before=before: lease.stat().st_mtime_ns != before, what="the next heartbeat")
            beats += 1
            now = switches(process.pid)
            awake = now - start
            assert time.monotonic() < deadline, f"threads, and how often they woke in {beats} heartbeats: {awake}"
            if len(awake) > 1 or awake.total() > 10 * beats + 10:  # a disk may make it wait within a beat
                beats, start = 0, now


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_heartbeat_is_a_handful_of_calls(spool: Spool, tmp_path: Path) -> None:
    with worker(spool, "--heartbeat", "0.5") as process:
        trace = tmp_path / "trace"
        subprocess.run(["timeout", "4", "strace", "-f", "-p", str(process.pid), "-o", str(trace)],
                       capture_output=True, check=False, timeout=30)  # fmt: skip
    lines = [line.split(None, 1) for line in trace.read_text().splitlines()]
    hearts = [thread for thread, call in lines if call.startswith("utimensat")]
    assert len(set(hearts)) == 1, "one thread beats"
    assert len(hearts) >= 2
    assert sum(thread == hearts[0] for thread, _ in lines) <= 10 * len(hearts) + 8, lines


def test_a_job_starts_within_milliseconds_also_while_others_are_claimed(spool: Spool, tmp_path: Path) -> None:
    """Kills the 500 ms that watchdog's own emitter adds once files are renamed out of a watched directory."""
    marks = tmp_path / "marks"
    late = []
    with worker(spool, "--count", "3"):
        for n in range(60):
            spool.enqueue("true")  # the stream that keeps the worker claiming
            if n % 3 == 0:
                enqueued = time.time()
                spool.enqueue(f"date +%s.%N >> {marks}", priority=9)
                until(lambda n=n: marks.exists() and len(marks.read_text().split()) == n // 3 + 1, what="it runs")
                late.append(float(marks.read_text().split()[-1]) - enqueued)
    print(f"median {statistics.median(late) * 1000:.1f} ms")
    assert statistics.median(late) < 0.2


def test_few_descriptors_or_processes_stop_no_worker(spool: Spool) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    ids = spool.enqueue_many([{"command": "sleep 0.05"} for _ in range(16)])
    done = subprocess.run(
        [sys.executable, "-m", "queuectl", "--spool", spool.root, "worker", "start", "--count", "30", "--until-empty"],
        preexec_fn=few, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert len(listing(spool, "completed")) == len(ids)


def test_status_says_who_works(spool: Spool) -> None:
    with worker(spool, "--count", "3"):
        assert "1 (3 slots" in queuectl(spool, "status").stdout
