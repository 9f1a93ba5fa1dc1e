"""Every line of the table of commands that earlier queuectl programs promise, in all its spellings, for real."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import pytest

from tests.cli.conftest import ID, LIMIT, Queuectl, matches
from tests.support import WorkerProcess, until

LONG_AGO = "2025-11-10T10:00:00Z"
JSON_JOB = json.dumps(
    {"command": "echo hi", "max_retries": 5, "timeout": 10, "priority": 3, "run_at": LONG_AGO, "id": "job1"}
)


def test_enqueue_takes_json_and_prints_the_id_and_nothing_else(queue: Queuectl) -> None:
    assert queue("enqueue", JSON_JOB) == (0, "job1\n", "")
    record = queue.record("job1")
    assert record.pop("created_at").endswith("Z")
    assert record == {
        "id": "job1", "command": "echo hi", "max_retries": 5, "timeout": 10, "priority": 3,
        "run_at": "2025-11-10T10:00:00.000000Z", "cwd": str(queue.home),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["curl https://api.example.com"], {"command": "curl https://api.example.com"}),
        (["--command", "echo hello"], {"command": "echo hello"}),
        (["--", "convert", "in.jpg", "out.png"], {"argv": ["convert", "in.jpg", "out.png"]}),
    ],
)
def test_enqueue_takes_a_command(queue: Queuectl, arguments: list[str], work: dict[str, object]) -> None:
    result = queue("enqueue", *arguments)
    assert matches(f"{ID}\n", result.out)
    assert (result.code, result.err) == (0, "")
    record = queue.record(result.out.strip())
    assert {key: record[key] for key in work} == work
    assert record["cwd"] == str(queue.home)


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        (["worker", "start"], 1),
        (["worker", "start", "--count", "3"], 3),
        (["worker", "start", "-c", "3"], 3),
        (["worker:start", "--count", "3"], 3),
    ],
)
def test_worker_start_works_in_the_foreground_until_sigterm(
    queue: Queuectl, arguments: list[str], slots: int
) -> None:
    queue.ok("enqueue", "--id", "one", "echo hi")
    process = queue.start(*arguments)
    try:
        queue.await_state("one", "completed")
        (worker,) = queue.json("worker", "list")
        assert (worker["slots"], worker["pid"], worker["alive"]) == (slots, process.pid, True)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (0, "")
    assert re.search(rf"works on {queue.spool.root}: {slots} slots?\b", err)
    assert "job one completed" in err
    assert queue("worker", "list") == (
        0, "", "queuectl: No worker is running. `queuectl worker start` starts one.\n",
    )  # fmt: skip


@pytest.mark.parametrize("detach", ["--detach", "-d"])
@pytest.mark.parametrize("stop", [["worker", "stop"], ["worker:stop"], ["worker", "stop", "--now"]])
def test_worker_start_in_the_background_and_stop(queue: Queuectl, detach: str, stop: list[str]) -> None:
    started = queue("worker", "start", detach)
    assert matches(r"[A-Za-z0-9-]+\n", started.out)
    assert (started.code, started.err) == (0, "")
    worker = started.out.strip()
    try:
        queue.ok("enqueue", "--id", "one", "echo hi")
        queue.await_state("one", "completed")
        (log,) = [name for name in os.listdir(queue.spool.dir("logs")) if name.startswith("worker-")]
        (about,) = queue.json("worker", "list")
        assert about["id"] == worker
        assert os.getsid(about["pid"]) == about["pid"], "it should be in a session of its own"
    finally:
        stopped = queue(*stop)
    assert (stopped.code, stopped.out) == (0, f"{worker}\n")
    with open(queue.spool.dir("logs") + log, encoding="utf-8") as file:
        assert "job one completed" in file.read()


def test_worker_stop_waits_for_running_jobs_and_says_so(queue: Queuectl) -> None:
    gate = queue.home / "gate"
    os.mkfifo(gate)
    queue.ok("worker", "start", "--detach")
    queue.ok("enqueue", "--id", "slow", f"read line < {gate}")
    queue.await_state("slow", "processing")
    process = queue.start("worker", "stop")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert matches(r"queuectl: Waiting for worker \S+ on \S+: 1 job running \(slow\)\.\n", line), line
    gate.write_text("go\n")
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert matches(r"\S+\n", out)
    assert queue.state("slow") == "completed"


def test_worker_stop_now_gives_running_jobs_back(queue: Queuectl) -> None:
    queue.ok("worker", "start", "--detach")
    queue.ok("enqueue", "--id", "slow", "sleep 1000")
    queue.await_state("slow", "processing")
    assert queue("worker", "stop", "--now").code == 0
    assert queue.state("slow") == "pending"
    (job,) = queue.json("list")
    assert (job["id"], job["attempts"]) == ("slow", 0)


def test_status(queue: Queuectl, at_work: WorkerProcess) -> None:
    queue.ok("enqueue", "--id", "good", "true")
    queue.ok("enqueue", "--id", "later", "--in", "1h", "true")
    queue.ok("enqueue", "--id", "bad", "--max-retries", "0", "false")
    queue.await_state("good", "completed")
    queue.await_state("bad", "dead")
    assert matches(
        rf"""Spool           {queue.spool.root}
Pending         1
Processing      0
Completed       1
Failed          0
Dead \(DLQ\)      1
Total           3
Active workers  1 \(2 slots on \S+\)
""",
        queue.ok("status"),
    )
    status = queue.json("status")
    (worker,) = status.pop("workers")
    assert (worker["pid"], worker["slots"]) == (at_work.pid, 2)
    assert status == {
        "spool": queue.spool.root, "pending": 1, "processing": 0, "completed": 1, "failed": 0, "dead": 1, "total": 3,
        "rejected": 0, "active_workers": 1, "active_hosts": 1, "mode": "woken by inotify",
    }  # fmt: skip


def test_list(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "job1", "--run-at", "2040-01-01T00:00:00Z", "--priority", "7", "echo hi")
    assert queue("list") == (
        0,
        "ID    STATE    PRIORITY  ATTEMPTS  NOT BEFORE / SINCE         COMMAND\n"
        "job1  pending  7         0         2040-01-01 01:00:00 +0100  echo hi\n",
        "",
    )
    (job,) = queue.json("list", "--state", "pending")
    assert job.pop("created_at")
    assert job == {
        "id": "job1", "command": "echo hi", "run_at": "2040-01-01T00:00:00.000000Z", "priority": 7,
        "cwd": str(queue.home), "state": "pending", "attempts": 0, "not_before": "2040-01-01T00:00:00.000000Z",
        "worker": None, "max_retries": None, "timeout": None, "updated_at": None, "last_error": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ("pending", ["waits"]),
        ("processing", ["runs"]),
        ("completed", ["good"]),
        ("failed", ["again"]),
        ("dead", ["bad"]),
        ("dead,completed", ["good", "bad"]),
        ("failed, pending,processing", ["runs", "waits", "again"]),
    ],
)
def test_list_of_any_state(five_states: Queuectl, states: str, shown: list[str]) -> None:
    assert [job["id"] for job in five_states.json("list", "--state", states)] == shown
    table = five_states.ok("list", "--state", states).splitlines()[1:]
    assert [line.split()[0] for line in table] == shown


@pytest.fixture(scope="module")
def five_states(tmp_path_factory: pytest.TempPathFactory) -> Queuectl:
    """A spool with a job in each state, made by hand: the worker that runs `runs` is none of ours."""
    queue = Queuectl(tmp_path_factory.mktemp("five"))
    body = '{"id": "%s", "command": "echo %s"}\n'
    for place in (
        "pending/20400101T000000.000000Z.p0.a0.waits", "processing/20250101T000000.000000Z.p0.a1.runs@elsewhere-1.1",
        "completed/good", "failed/20400101T000000.000000Z.p0.a1.again", "dead/bad",
    ):  # fmt: skip
        job_id = place.partition("@")[0].rpartition("/")[2].rpartition(".")[2]
        (queue.home / "spool" / f"{place}.json").write_text(body % (job_id, job_id))
    return queue


def test_logs(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "talks", "echo out; echo err >&2")
    queue.work()
    head = "Job      talks\nCommand  echo out; echo err >&2\nState    completed\n\n"
    assert queue("logs", "talks") == (0, f"{head}out\nerr\n", "")
    assert queue("logs", "--raw", "talks") == (0, "out\nerr\n", "")
    assert queue("logs", "--attempt", "1", "talks") == (0, f"{head}out\nerr\n", "")
    assert queue("logs", "--follow", "talks") == (0, f"{head}out\nerr\n", "")
    assert queue.json("logs", "talks") == {
        "id": "talks", "command": "echo out; echo err >&2", "state": "completed", "attempt": 1, "output": "out\nerr\n",
    }  # fmt: skip


def test_dead_letters(queue: Queuectl) -> None:
    for name in ("one", "two", "three"):
        queue.ok("enqueue", "--id", name, "--max-retries", "0", "test -e cured")
    queue.work()
    listed = queue.ok("dlq", "list").splitlines()
    assert listed[0].split() == ["ID", "ATTEMPTS", "SINCE", "REASON", "COMMAND"]
    assert sorted(line.split()[0] for line in listed[1:]) == ["one", "three", "two"]
    assert all("exit code 1" in line and "test -e cured" in line for line in listed[1:])
    assert queue("dlq", "retry", "one") == (0, "one\n", "")
    record = queue.record("one")
    assert (queue.state("one"), record["attempts"]) == ("pending", 0)
    assert [entry["attempt"] for entry in record["history"]] == [1], "its history is kept"
    retried = queue("dlq:retry", "--all")
    assert (retried.code, sorted(retried.out.split()), retried.err) == (0, ["three", "two"], "")
    queue.work()
    assert len(queue.json("dlq:list")) == 3
    assert queue("dlq", "purge") == (0, "", "queuectl: 3 dead letters were removed.\n")
    assert queue("dlq", "list") == (0, "", "")


def test_settings(queue: Queuectl) -> None:
    assert queue("config", "set", "max-retries", "5") == (0, "", "")
    assert queue("config", "get", "max-retries") == (0, "5\n", "")
    assert queue("config:get", "default_max_retries") == (0, "5\n", "")
    assert queue.json("config", "get", "max_retries") == {"key": "max-retries", "value": 5, "source": "config.toml"}
    table = queue.ok("config", "list").splitlines()
    assert table[0].split() == ["KEY", "VALUE", "SOURCE", "WHAT", "IT", "IS"]
    assert table[1].split()[:3] == ["max-retries", "5", "config.toml"]
    assert table[2].split()[:3] == ["backoff-base", "2", "default"]
    assert queue("config", "unset", "max-retries") == (0, "", "")
    assert queue("config", "get", "max-retries") == (0, "3\n", "")


SETTINGS = [
    ("max-retries", "3", "7", "7"),
    ("default_max_retries", "3", "7", "7"),
    ("max_retries", "3", "7", "7"),
    ("backoff-base", "2", "1.5", "1.5"),
    ("backoff_base", "2", "3", "3"),
    ("backoff-max", "3600", "10m", "600"),
    ("jitter", "none", "full", "full"),
    ("default-timeout", "none", "90s", "90"),
    ("log-level", "info", "debug", "debug"),
    ("heartbeat", "10", "5", "5"),
    ("stale-after", "120", "10m", "600"),
    ("poll-interval", "1", "0.5", "0.5"),
    ("stop-grace", "none", "30", "30"),
    ("durability", "fsync", "none", "none"),
    ("min-free", "67108864", "1G", "1073741824"),
    ("max-log", "1073741824", "none", "none"),
    ("permanent-exit-codes", "100", "65, 100,78", "65,78,100"),
]


def test_each_setting_has_its_default(queue: Queuectl) -> None:
    shown = {line.split()[0]: line.split()[1:3] for line in queue.ok("config", "list").splitlines()[1:]}
    assert shown == {key: [default, "default"] for key, default, _, _ in SETTINGS if "_" not in key}


@pytest.mark.parametrize(("key", "default", "text", "value"), SETTINGS)
def test_each_setting_and_its_spellings(queue: Queuectl, key: str, default: str, text: str, value: str) -> None:
    assert queue("config", "set", key, text) == (0, "", "")
    assert queue("config", "get", key) == (0, f"{value}\n", "")


def test_all_settings_return_to_their_defaults(queue: Queuectl) -> None:
    for key, _, text, _ in SETTINGS[3:6]:
        queue.ok("config", "set", key, text)
    queue.ok("config", "unset", *[key for key, _, _, _ in SETTINGS])
    assert all(setting["source"] == "default" for setting in queue.json("config", "list").values())


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("DEFAULT_MAX_RETRIES", "max-retries"), ("QUEUECTL_MAX_RETRIES", "max-retries"),
        ("DEFAULT_BACKOFF_BASE", "backoff-base"), ("QUEUECTL_BACKOFF_BASE", "backoff-base"),
        ("QUEUECTL_BACKOFF_MAX", "backoff-max"),
    ],
)  # fmt: skip
def test_the_environment_wins_over_the_file(queue: Queuectl, variable: str, key: str) -> None:
    environ: dict[str, Any] = {variable: "9"}
    queue.ok("config", "set", key, "8")
    assert queue.ok("config", "get", key, **environ) == "9\n"
    assert queue("config", "set", key, "7", **environ) == (
        0, "", f"queuectl: ${variable} is set in this environment and wins over config.toml here."
        " Unset it to use the new value.\n",
    )  # fmt: skip


def test_a_flag_wins_over_the_environment(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "bad", "false")
    result = queue("worker", "start", "--until-empty", "--max-retries=0", QUEUECTL_MAX_RETRIES="9")
    assert result.code == 0
    assert queue.state("bad") == "dead"


def test_log_level_from_the_environment(queue: Queuectl) -> None:
    assert queue("worker", "start", "--until-empty", LOG_LEVEL="error") == (0, "", "")


def test_demo_runs_real_jobs_and_leaves_the_spool(queue: Queuectl) -> None:
    place = queue.home / "demo"
    out = queue.ok("demo", str(place))
    assert "hello     completed" in out
    assert "stubborn  failed, attempt 2: it will be tried again" in out
    assert "doomed    dead: exit code 1" in out
    assert "Now: Pending 0, Processing 0, Completed 4, Failed 0, Dead (DLQ) 1." in out
    suggested = [line.strip().partition(" ")[2] for line in out.splitlines() if line.startswith("  queuectl --spool")]
    assert len(suggested) == 6
    for line in suggested:
        assert queue(*line.split()).code == 0, line
    until(lambda: queue.json("status", "--spool", str(place))["active_workers"] == 0, LIMIT)
