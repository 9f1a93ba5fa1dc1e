"""What a job leaves behind: it ends with its job, also if it hides, and holds no other job up. Real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queuectl import orphans
from queuectl.core import job as jobs
from queuectl.core.backoff import EXITED, STOPPED
from queuectl.core.names import Waiting
from queuectl.runner import Attempt, Runner
from queuectl.spool import Spool
from tests.support import environment, listing, queuectl, state_of, until, worker

STAMP = "20200101T000000.000000Z"


def completes(spool: Spool, job_id: str) -> None:
    until(lambda: state_of(spool, job_id) == "completed", what=f"{job_id} completes")


def hiding(tmp_path: Path, output: str = "") -> str:
    """A job that ends when a process that it leaves has left its group."""
    program = f"echo $$ > {tmp_path}/pid; exec sleep 20"
    return f"env -i setsid sh -c '{program}' {output} & until [ -s {tmp_path}/pid ]; do sleep 0.01; done"


def left(path: Path) -> int:
    """The process id that a job has written down."""
    return int(until(lambda: path.exists() and path.read_text()))


def test_a_process_that_hides_whose_it_is_holds_no_job_up_and_ends_with_the_last(spool: Spool, tmp_path: Path) -> None:
    """As ssh-agent does. It may be the long job's."""
    with worker(spool, "--count", "2"):
        spool.enqueue("exec sleep 20", id="long")
        until(lambda: state_of(spool, "long") == "processing")
        spool.enqueue(hiding(tmp_path, "> /dev/null 2>&1"), id="hides")
        completes(spool, "hides")
        pid = left(tmp_path / "pid")
        assert not orphans.is_zombie(pid)
        queuectl(spool, "cancel", "long")
        until(lambda: orphans.is_zombie(pid), what="what was left is killed")


def test_a_process_that_hides_is_known_by_the_log_that_it_writes_to(spool: Spool, tmp_path: Path) -> None:
    with worker(spool, "--count", "2"):
        spool.enqueue("exec sleep 20", id="long")
        until(lambda: state_of(spool, "long") == "processing")
        spool.enqueue(hiding(tmp_path), id="hides")
        completes(spool, "hides")
        until(lambda: orphans.is_zombie(left(tmp_path / "pid")), what="what was left is killed")
        assert state_of(spool, "long") == "processing"


def test_a_process_is_found_whose_parent_ended_between_the_listing_and_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of chaos had a killed worker's job run again beside such a process (R8)."""
    fork = f"read line; sleep 20 & echo $! > {tmp_path}/pid"
    environ = {"PATH": os.environ["PATH"], "QUEUECTL_CLAIM": "job1@w.1"}
    with subprocess.Popen(["/bin/sh", "-c", fork], env=environ, stdin=subprocess.PIPE) as parent:
        real, told = os.listdir, []

        def listed(path: str) -> list[str]:
            names = real(path)
            if not told:
                told.append(parent.communicate(b"go\n"))
            return names

        monkeypatch.setattr(os, "listdir", listed)
        found = orphans.find("job1@w.1".__eq__, "/tmp")
        child = left(tmp_path / "pid")
        os.kill(child, signal.SIGKILL)
    assert found == {child}


class Children:
    """What /proc says of our children, one listing after the other."""

    def __init__(self, *listings: list[int]) -> None:
        self.listings = list(listings)

    def pids(self) -> list[int]:
        return self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]

    def close(self) -> None:
        pass


def runner_and_attempt(spool: Spool) -> tuple[Runner, Attempt]:
    runner = Runner(spool, dict(os.environ))
    claim = Waiting(STAMP, 0, 0, "job1").claimed_by("w", 1)
    return runner, runner.start(claim, jobs.parse(b'{"command": "exit 0"}'), None)


def started_by(attempt: Attempt) -> subprocess.Popen[bytes]:
    """A process that an attempt's job has started, in a session that is not the worker's."""
    environ = {**os.environ, "QUEUECTL_CLAIM": attempt.claim.key}
    return subprocess.Popen(["sleep", "20"], env=environ, start_new_session=True)


def test_the_child_of_a_child_that_has_just_ended_is_seen(spool: Spool) -> None:
    runner, attempt = runner_and_attempt(spool)
    select.select([attempt.pidfd], [], [])
    ended = runner.reap(attempt.pidfd)
    between = subprocess.Popen(["true"])
    until(lambda: orphans.is_zombie(between.pid))
    stray = started_by(attempt)
    runner._children = Children([between.pid], [stray.pid], [])  # type: ignore[assignment]
    assert runner.settled_down([ended]) == []
    assert runner.has_strays
    assert stray.wait(10) == -signal.SIGKILL
    assert runner.settled_down([ended]) == [ended]
    between.wait()
    runner.close()


def test_a_stray_that_is_just_executing_another_program_is_waited_for(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows nothing of it in that moment; and the other job beside which it runs goes on for long."""
    runner, attempt = runner_and_attempt(spool)
    select.select([attempt.pidfd], [], [])
    ended = runner.reap(attempt.pidfd)
    claim = Waiting(STAMP, 0, 0, "job2").claimed_by("w", 2)
    other = runner.start(claim, jobs.parse(b'{"command": "exec sleep 20"}'), None)
    stray = started_by(attempt)
    runner._children = Children([stray.pid, other.pid])  # type: ignore[assignment]
    with monkeypatch.context() as executing:
        executing.setattr(orphans, "mark_of", lambda _: "")
        assert runner.settled_down([ended]) == []
        assert runner.has_strays
    until(lambda: runner.settled_down([ended]) == [ended], what="it is killed")
    assert orphans.is_zombie(stray.pid)
    assert not runner.has_strays
    stray.wait()
    runner.kill_everything()
    runner.reap(other.pidfd)
    runner.close()


def test_a_job_that_has_ended_by_itself_is_not_stopped(spool: Spool) -> None:
    runner, attempt = runner_and_attempt(spool)
    select.select([attempt.pidfd], [], [])
    runner.end(attempt, STOPPED, attempt.began)
    outcome = runner.reap(attempt.pidfd).outcome
    assert outcome is not None
    assert (outcome.reason, outcome.exit_code) == (EXITED, 0)
    runner.close()


def test_what_a_process_of_another_user_leaves_is_said_once_and_holds_nobody_up(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sudo and a daemon: a worker may not kill it."""
    said: list[str] = []
    runner, attempt = runner_and_attempt(spool)
    runner._say = lambda _, text: said.append(text)
    select.select([attempt.pidfd], [], [])
    ended = runner.reap(attempt.pidfd)

    def refused(*_: Any) -> None:
        raise PermissionError

    with subprocess.Popen(["sleep", "20"], start_new_session=True) as daemon:
        runner._children = Children([daemon.pid])  # type: ignore[assignment]
        with monkeypatch.context() as another_users:
            another_users.setattr(os, "kill", refused)
            assert runner.settled_down([ended]) == [ended]
            assert runner.settled_down([]) == []
        daemon.kill()
    assert said == [f"process {daemon.pid} was left behind by a job as another user and cannot be killed"]
    assert not runner.has_strays
    runner.close()


def test_a_jobs_text_is_utf_8_whatever_locale_its_worker_has(spool: Spool, tmp_path: Path) -> None:
    """Under such a locale the job ended its worker, and the next one."""
    (tmp_path / "ü").mkdir()
    spool.enqueue("echo ä $Ö; pwd", id="shell", cwd=f"{tmp_path}/ü", env={"Ö": "x", "V": "ü"})
    spool.enqueue(argv=["printf", "%s", "ü"], id="argv")
    done = queuectl(spool, "worker", "start", "--until-empty", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, listing(spool, "completed")) == (0, ["argv.json", "shell.json"]), done.stderr
    assert Path(spool.root, "logs", "argv.1.log").read_text("utf-8") == "ü"
    assert f"{tmp_path}/ü\n" in Path(spool.root, "logs", "shell.1.log").read_text("utf-8")


def test_a_worker_under_nohup_outlives_the_terminal_and_its_jobs_can_be_hung_up(spool: Spool) -> None:
    command = ["nohup", sys.executable, "-m", "queuectl", "--spool", spool.root, "worker", "start"]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        try:
            until(lambda: listing(spool, "workers"), what="it registers")
            process.send_signal(signal.SIGHUP)
            spool.enqueue("kill -HUP $$", id="hangs-up", max_retries=0)
            until(lambda: spool.has_ended("hangs-up", "dead") or spool.has_ended("hangs-up", "completed"))
            assert state_of(spool, "hangs-up") == "dead"
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_a_new_job_of_an_old_id_does_not_show_the_old_output(spool: Spool) -> None:
    """Its file was removed by hand, as the spool's README allows; its log was not."""
    spool.enqueue("echo old", id="one")
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    os.unlink(Path(spool.root, "completed", "one.json"))
    os.unlink(Path(spool.root, ".ids", "one"))
    spool.enqueue("true", id="one")
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert "old" not in queuectl(spool, "logs", "one").stdout


def test_what_the_worker_s_process_had_started_before_is_no_jobs_and_lives(spool: Spool, tmp_path: Path) -> None:
    """A shell's script that becomes the worker (exec) leaves it its children: a log's reader, a sidecar; and what these
    leave behind is theirs."""
    sidecar = f"sleep 1000 & echo $! > {tmp_path}/pid; (sleep 1000 & echo $! > {tmp_path}/orphan)"
    begin = f"setsid sh -c 'echo $$ > {tmp_path}/other; exec sleep 1000' & exec > >(tee {tmp_path}/said) 2>&1"
    late = f"(sleep 0.5; sleep 1000 & echo $! > {tmp_path}/late) &"
    start = f"exec {sys.executable} -m queuectl --spool {spool.root} worker start"
    script = ["/bin/bash", "-c", f"{sidecar}; {late} {begin}; {start}"]
    process = subprocess.Popen(script, env=environment(), start_new_session=True)
    names = ("pid", "orphan", "other", "late")
    try:
        spool.enqueue("true", id="one")
        until(lambda: spool.has_ended("one", "completed"), what="a job has ended")
        until(lambda: all((tmp_path / name).exists() for name in names), what="they are there")
        for n in range(3):
            spool.enqueue("true", id=f"more{n}")
            until(lambda n=n: spool.has_ended(f"more{n}", "completed"), what="another one has ended")  # type: ignore[misc]
        assert not [name for name in names if orphans.is_zombie(left(tmp_path / name))]
        until(lambda: "more2 completed" in (tmp_path / "said").read_text(), what="what it says is read")
    finally:
        process.terminate()
        assert process.wait(15) == 0
        for name in names:
            os.kill(left(tmp_path / name), signal.SIGKILL)
