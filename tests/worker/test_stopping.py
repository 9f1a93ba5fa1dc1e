"""How a worker stops: drain, stop now, stop-grace, requests; what goes back is not counted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from queuectl.core.backoff import Policy
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.lookout import Lookout
from queuectl.recover import Recovery
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


def test_a_worker_that_stops_is_shown_as_stopping_and_as_no_help_to_what_waits(spool: Spool, tmp_path: Path) -> None:
    def told(*words: str) -> str:
        result = queuectl(spool, *words)
        return str(result.stdout + result.stderr)

    with worker(spool, "--count", "4") as process:
        start_one(spool, tmp_path, f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        spool.enqueue("true", id="two", run_at="2026-01-01T00:00:00Z", needs=["nobody"])
        assert "; 1 stopping" not in told("status")
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: "stopping" in told("worker", "list"), what="`worker list` shows it")
        spool.enqueue("true", id="three")
        (about,) = json.loads(told("worker", "list", "--json"))
        assert (about["alive"], about["stopping"], about["running"]) == (True, True, ["one"])
        shown = told("status")
        assert "Active workers  1 (4 slots on " in shown
        assert "; 1 stopping)" in shown
        assert "All workers are stopping, and take no more jobs. `queuectl worker start` starts another." in shown
        (about,) = json.loads(told("status", "--json"))["workers"]
        assert about["stopping"] is True
        assert "it waits for a worker: the one that could take it is stopping" in told("show", "three")
        assert "none with it; `queuectl worker start --label nobody` starts one" in told("show", "two")
        with worker(spool):
            until(lambda: state_of(spool, "three") == "completed", what="the other worker takes it")
            assert "2 (5 slots on " in told("status")
        (tmp_path / "go").touch()
        assert code_of(process) == 0


def test_a_share_of_the_queue_is_not_left_to_who_stops(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER, slots=1) as me, Lease(spool, ROLE_WORKER, slots=1) as other:
        lookout = Lookout(spool, network=False, poll_interval=1.0, wall=spool.clock, say=lambda *_: None)
        census = Census(spool, 120.0, me.worker)
        lookout.attach(me, census, Recovery(spool, me, Policy, lambda *_: None, lambda: None))
        shares: list[int] = []
        divide = lookout.window.divide

        def divided(place: int, workers: Sequence[frozenset[str]]) -> bool:
            shares.append(len(workers))
            return divide(place, workers)

        lookout.window.divide = divided  # type: ignore[method-assign]
        lookout.turn(time.monotonic(), known=set, stopping=False)
        other.say_stopping()
        lookout.turn(time.monotonic() + 100, known=set, stopping=False)
        assert shares == [2, 1]


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


def test_a_job_is_cancelled_also_by_a_worker_that_has_been_told_to_stop_now(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        start_one(spool, tmp_path, "trap '' TERM; while :; do sleep 0.02; done")
        os.kill(process.pid, signal.SIGQUIT)
        until(lambda: "stopping now" in process.said, what="it stops")
        spool.put_request("one.cancel")
        assert code_of(process) == 0
    assert state_of(spool, "one") == "dead"
    assert body_of(spool, "one")["last_error"] == "cancelled"
    assert listing(spool, "workers") == [], "the request is removed"


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
