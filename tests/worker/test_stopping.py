"""How a worker stops: drain, stop now, stop-grace, requests; what goes back is not counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.support import WorkerProcess, body_of, listing, queuectl, state_of, until, worker


def start_one(spool: Spool, tmp_path: Path, command: str = "sleep 1000", **members: object) -> None:
    """Enqueue job "one", and wait until it runs."""
    spool.enqueue(f"touch {tmp_path}/runs; {command}", id="one", **members)
    until((tmp_path / "runs").exists, what="the job runs")


def code_of(process: WorkerProcess) -> int:
    return process.process.wait(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_lets_running_jobs_finish_and_takes_no_more(
    spool: Spool, tmp_path: Path, number: signal.Signals
) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        spool.enqueue("true", id="two")
        os.kill(process.pid, number)
        until(lambda: "waiting for 1 running job;" in process.said, what="the worker says what it does")
        (tmp_path / "go").touch()
        assert code_of(process) == 0
    assert (state_of(spool, "one"), state_of(spool, "two")) == ("completed", "pending")
    assert listing(spool, "workers") == []
    assert listing(spool, ".tmp") == []


def goes_back_uncounted(spool: Spool) -> None:
    assert state_of(spool, "one") == "pending"
    (name,) = listing(spool, "pending")
    assert ".a0." in name
    body = body_of(spool, "one")
    assert body["attempts"] == 0
    assert body["history"][0]["reason"] == "stopped"
    assert listing(spool, "processing") == []
    assert listing(spool, "workers") == []


def test_the_second_signal_gives_running_jobs_back_uncounted(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path)
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: "waiting for" in process.said)
        os.kill(process.pid, signal.SIGTERM)
        assert code_of(process) == 0
    goes_back_uncounted(spool)


def test_quit_stops_at_once(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path)
        os.kill(process.pid, signal.SIGQUIT)
        assert code_of(process) == 0
    goes_back_uncounted(spool)


def test_after_stop_grace_jobs_are_given_back(spool: Spool, tmp_path: Path) -> None:
    with worker(spool, "--stop-grace", "0.2") as process:
        start_one(spool, tmp_path)
        os.kill(process.pid, signal.SIGTERM)
        assert code_of(process) == 0
    goes_back_uncounted(spool)


def test_a_job_that_ignores_sigterm_is_killed_and_given_back(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path, "trap '' TERM; while :; do sleep 0.1; done")
        os.kill(process.pid, signal.SIGQUIT)
        assert code_of(process) == 0
    goes_back_uncounted(spool)


def test_worker_stop_waits_for_running_jobs(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path, "sleep 0.3")
        stopped = queuectl(spool, "worker", "stop")
        assert stopped.returncode == 0, stopped.stderr
        assert code_of(process) == 0
    assert state_of(spool, "one") == "completed"


def test_worker_stop_now_gives_jobs_back(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path)
        assert queuectl(spool, "worker", "stop", "--now").returncode == 0
        assert code_of(process) == 0
    goes_back_uncounted(spool)


def test_a_running_job_is_cancelled_by_whoever_runs_it(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path)
        done = queuectl(spool, "cancel", "one")
        assert done.returncode == 0, done.stderr
        assert state_of(spool, "one") == "dead"
        assert body_of(spool, "one")["last_error"] == "cancelled"
        spool.enqueue("true", id="two")
        until(lambda: spool.has_ended("two", "completed"), what="the worker goes on")
        assert process.end() == 0
    assert listing(spool, "workers") == []


def test_until_empty_waits_for_retries_and_scheduled_jobs(spool: Spool) -> None:
    spool.enqueue("[ $QUEUECTL_ATTEMPT = 2 ]", id="retry", backoff_base=0.4)
    assert queuectl(spool, "enqueue", "--in", "1s", "--id", "later", "true").returncode == 0
    done = queuectl(spool, "worker", "start", "--until-empty")
    assert done.returncode == 0
    assert listing(spool, "completed") == ["later.json", "retry.json"]


def test_settings_are_taken_up_while_it_runs(spool: Spool) -> None:
    with worker(spool) as process:
        assert queuectl(spool, "config", "set", "max-retries", "0").returncode == 0
        until(lambda: "settings were reread" in process.said, what="the worker rereads the settings")
        spool.enqueue("false", id="one")
        until(lambda: spool.has_ended("one", "dead"), what="it is dead at once")
        Path(spool.config_path).write_text("max-retries = [")
        until(lambda: "The last good settings stay in force" in process.said, what="the worker says what is wrong")
        spool.enqueue("false", id="two")
        until(lambda: spool.has_ended("two", "dead"), what="the last good settings are in force")
        assert process.end() == 0
