"""`wait`, `cancel`, `dlq`, `prune`, `worker`, `config`, `init`: what they do, say and end with."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.cli.conftest import LIMIT, Queuectl, matches
from tests.support import WorkerProcess, drop, until, worker

REQUESTED = (
    "queuectl: a will be cancelled when its worker, or whoever takes the job back from it, sees the request;"
    " `queuectl show a` shows how it goes on.\n"
)


def ids(queue: Queuectl, state: str) -> list[str]:
    return sorted(job["id"] for job in queue.json("list", "--state", state, "--limit", "0"))


def enqueue(queue: Queuectl, **commands: str) -> None:
    """One job for each, named as the argument, without retries."""
    batch = "".join(json.dumps({"id": n, "command": c, "max_retries": 0}) + "\n" for n, c in commands.items())
    queue.ok("enqueue", "--batch", "-", stdin=batch)


# -- wait -------------------------------------------------------------------------------------------------------------


def test_wait_until_jobs_have_completed(queue: Queuectl) -> None:
    enqueue(queue, a="true", b="true")
    process = queue.start("wait", "a", "b")
    queue.work()
    assert (*process.communicate(timeout=LIMIT), process.returncode) == ("", "", 0)
    assert queue("wait", "a", "b") == (0, "", "")
    assert queue.json("wait", "a", "b") == {"jobs": {"a": "completed", "b": "completed"}, "timed_out": False}
    assert queue.json("wait", "--all") == {"completed": 2, "dead": 0, "timed_out": False}


def test_wait_is_exit_1_if_one_is_dead(queue: Queuectl) -> None:
    enqueue(queue, good="true", bad="false")
    process = queue.start("wait", "--all")
    queue.work()
    told = "queuectl: 1 job is dead. `queuectl dlq list` shows why.\n"
    assert (*process.communicate(timeout=LIMIT), process.returncode) == ("", told, 1)
    assert queue("wait", "good", "bad") == (1, "", told)
    assert queue("wait", "good") == (0, "", "")


def test_wait_is_exit_124_at_the_timeout(queue: Queuectl) -> None:
    enqueue(queue, a="true")
    told = "queuectl: The time is over; nothing was changed. `queuectl list` shows where the jobs are.\n"
    for words in (["a"], ["--all"]):
        assert queue("wait", "--timeout", "0.05", *words) == (124, "", told)
    result = queue("wait", "--timeout", "0s", "--json", "a")
    assert (result.code, json.loads(result.out)) == (124, {"jobs": {"a": None}, "timed_out": True})


def test_wait_for_an_unknown_job_ends_at_once(queue: Queuectl) -> None:
    enqueue(queue, a="true")
    assert queue("wait", "a", "b") == (1, "", "queuectl: There is no job 'b' in this spool. See `queuectl list`.\n")


def test_wait_for_an_empty_spool(queue: Queuectl) -> None:
    assert queue("wait", "--all") == (0, "", "")


@pytest.mark.parametrize("words", [["a", "b"], ["--all"]])
def test_wait_shows_a_progress_bar_on_a_terminal(queue: Queuectl, words: list[str]) -> None:
    enqueue(queue, a="true", b="true")
    seen = queue.on_terminal("wait", *words, once=("0 of 2", queue.work))
    assert seen.code == 0
    assert "2 of 2" in seen.out
    assert seen.out.endswith("\r\x1b[K"), "the bar is wiped away"


def test_ctrl_c_ends_waiting_with_130(queue: Queuectl) -> None:
    enqueue(queue, a="true")
    for words in (["wait", "a"], ["wait", "--all"], ["logs", "--follow", "a"]):
        process = queue.start(*words)
        until(lambda pid=process.pid: is_asleep(pid), LIMIT, "it waits")  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, err) == (130, ""), words
        assert queue.state("a") == "pending"


def is_asleep(pid: int) -> bool:
    """Whether a process sleeps on the clock, as only a command does that waits."""
    try:
        return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text() or _in_sleep(pid)
    except OSError:
        return False


def _in_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "230"  # clock_nanosleep on x86-64


# -- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_a_waiting_job(queue: Queuectl) -> None:
    enqueue(queue, a="true", b="true", c="true")
    assert queue("cancel", "a") == (0, "a cancelled\n", "")
    assert queue.json("cancel", "b", "c") == {"b": "cancelled", "c": "cancelled"}
    assert ids(queue, "dead") == ["a", "b", "c"]
    assert queue.record("a")["last_error"] == "cancelled"


def test_cancel_a_running_job(queue: Queuectl, at_work: WorkerProcess) -> None:
    mark = queue.home / "pid"
    enqueue(queue, a=f"echo $$ > {mark}; sleep 1000")
    until(lambda: mark.exists() and mark.read_text(), LIMIT, "the job runs")
    assert queue("cancel", "a") == (0, "a cancelled\n", "")
    assert queue.state("a") == "dead"
    assert not os.path.exists(f"/proc/{mark.read_text().strip()}")


def test_cancel_says_what_had_ended_and_what_is_unknown(queue: Queuectl) -> None:
    enqueue(queue, good="true", bad="false", waits="true")
    queue.work()
    result = queue("cancel", "good", "bad", "nope")
    assert (result.code, result.out) == (1, "good completed\nbad dead\n")
    assert result.err == (
        "queuectl: good had ended already, as completed.\nqueuectl: bad had ended already, as dead.\n"
        "queuectl: There is no job 'nope' in this spool. See `queuectl list`.\n"
    )
    result = queue("cancel", "--json", "good", "nope")
    assert (result.code, json.loads(result.out)) == (1, {"good": "completed", "nope": "unknown"})


def test_cancel_of_a_job_whose_worker_does_not_answer(queue: Queuectl, at_work: WorkerProcess) -> None:
    enqueue(queue, a="sleep 1000")
    queue.await_state("a", "processing")
    at_work.process.send_signal(signal.SIGSTOP)
    try:
        assert queue("cancel", "--timeout", "0.05s", "a") == (1, "a requested\n", REQUESTED)
        assert queue.json("show", "a")["reason"].endswith("; it has been asked to cancel the job")
        process = queue.start("cancel", "a")
        until(lambda: is_asleep(process.pid), LIMIT, "it waits")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT)[1] == (
            "queuectl: The request to cancel a stands: its worker obeys it when it sees it.\n"
        )
        assert process.returncode == 130
    finally:
        at_work.process.send_signal(signal.SIGCONT)
    queue.await_state("a", "dead")


def test_cancel_waits_for_nobody_if_no_worker_is_alive_and_the_next_one_obeys(queue: Queuectl) -> None:
    with worker(queue.spool) as process:
        enqueue(queue, a="sleep 1000")
        queue.await_state("a", "processing")
        process.kill()
    began = time.monotonic()
    assert queue("cancel", "--timeout", "10m", "a") == (1, "a requested\n", REQUESTED)
    assert time.monotonic() - began < LIMIT
    assert queue.json("show", "a")["reason"].endswith("is dead; whoever works next cancels it")
    with worker(queue.spool):
        queue.await_state("a", "dead")
        until(lambda: not queue.spool.has_request("a.cancel"), what="the request is removed")
    assert queue.record("a")["last_error"] == "cancelled"


# -- the dead letter queue --------------------------------------------------------------------------------------------


def test_retry_of_what_is_not_dead(queue: Queuectl) -> None:
    enqueue(queue, a="true", b="true")
    queue("cancel", "b")
    result = queue("dlq", "retry", "a", "b", "nope")
    assert (result.code, result.out) == (1, "b\n")
    assert result.err == (
        "queuectl: a is not dead. `queuectl show a` says what it is.\n"
        "queuectl: There is no job 'nope' in this spool. See `queuectl list`.\n"
    )
    queue("cancel", "b")
    assert json.loads(queue("dlq", "retry", "--json", "a", "b").out) == {"a": False, "b": True}
    assert queue("dlq", "retry", "--all") == (0, "", "queuectl: The dead letter queue holds no job.\n")


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1)])
def test_purge_asks_on_a_terminal(queue: Queuectl, answer: str, left: int) -> None:
    enqueue(queue, a="true")
    queue("cancel", "a")
    seen = queue.on_terminal("dlq", "purge", typed=answer)
    assert f"Remove 1 dead job from {queue.spool.root}, and what was set aside? [y/N] " in seen.out
    assert seen.out.endswith("Nothing was removed.\n" if left else "1 dead letter was removed.\n")
    assert (seen.code, len(ids(queue, "dead"))) == (left, left)


def test_purge_does_not_ask_if_told_so(queue: Queuectl) -> None:
    enqueue(queue, a="true")
    drop(queue.spool, "bad.json", "")
    queue("cancel", "a")
    assert queue.on_terminal("dlq", "purge", "--yes").out == "queuectl: 1 dead letter was removed.\n"
    result = queue("dlq", "purge", "--json")
    assert (result.code, json.loads(result.out)) == (0, {"purged": 0})


# -- prune ------------------------------------------------------------------------------------------------------------


def test_prune(queue: Queuectl) -> None:
    enqueue(queue, old="echo out", young="true", bad="false", third="true")
    queue.work()
    queue.ok("enqueue", "--id", "later", "--in", "1h", "true")
    os.utime(queue.spool.dir("completed") + "old.json", (1e9, 1e9))
    assert queue("prune", "--older-than", "7d", "--dry-run") == (
        0, "old completed\n", "queuectl: 1 job would be removed.\n",
    )  # fmt: skip
    assert queue("prune", "--state", "completed", "--older-than", "7d", "--keep", "1000").err.endswith(
        " 0 jobs were removed.\n"
    )
    assert queue("prune", "--older-than", "7d") == (0, "", "queuectl: 1 job was removed.\n")
    assert ids(queue, "completed") == ["third", "young"]
    assert os.listdir(queue.spool.dir("logs")) == []
    queue.ok("enqueue", "--id", "old", "--in", "1h", "true")
    assert queue("prune", "--keep", "1").err == "queuectl: 1 job was removed.\n"
    result = queue("prune", "--state", "dead,completed", "--json")
    assert sorted(job["state"] for job in json.loads(result.out)) == ["completed", "dead"]
    assert ids(queue, "pending") == ["later", "old"]


# -- workers ----------------------------------------------------------------------------------------------------------


def test_worker_list(queue: Queuectl) -> None:
    worker = queue.ok("worker", "start", "-d", "--label", "gpu", "--label=big", "--count", "2").strip()
    try:
        enqueue(queue, a="sleep 1000")
        queue.await_state("a", "processing")
        (about,) = queue.json("worker", "list")
        assert about.pop("heartbeat_age") < LIMIT
        assert about.pop("started_at").endswith("Z")
        pid = about.pop("pid")
        assert about == {
            "id": worker, "host": os.uname().nodename, "alive": True, "stopping": False, "slots": 2, "running": ["a"],
            "labels": ["gpu", "big"], "version": "1.0.0",
        }  # fmt: skip
        table = queue.ok("worker", "list").splitlines()
        assert table[0].split() == [
            "ID", "HOST", "PID", "STATE", "RUNNING", "STARTED", "HEARTBEAT", "VERSION", "LABELS",
        ]  # fmt: skip
        assert matches(rf"{worker}  \S+ +{pid} +alive +1 of 2   \S+ \S+ \+0[12]00  \S+ ago +1.0.0 +gpu, big", table[1])
    finally:
        assert queue("worker", "stop", "--now", worker) == (0, f"{worker}\n", "")
    assert queue.json("worker", "list") == []


def test_worker_stop_names_one_of_several(queue: Queuectl) -> None:
    one, two = (queue.ok("worker", "start", "-d").strip() for _ in range(2))
    assert queue("worker", "stop", one) == (0, f"{one}\n", "")
    assert [worker["id"] for worker in queue.json("worker", "list")] == [two]
    result = queue("worker", "stop", one, two, "--json")
    assert (result.code, json.loads(result.out)) == (1, [two])
    assert result.err == f"queuectl: There is no worker '{one}' alive. `queuectl worker list` lists them.\n"


def test_worker_stop_without_waiting(queue: Queuectl) -> None:
    worker = queue.json("worker", "start", "-d")["id"]
    enqueue(queue, a="sleep 1000")
    queue.await_state("a", "processing")
    assert queue("worker", "stop", "--no-wait") == (0, f"{worker}\n", "")
    assert queue.state("a") == "processing"
    assert queue("worker", "stop", "--now") == (0, f"{worker}\n", "")


def test_a_detached_worker_that_cannot_start_shows_its_log(queue: Queuectl) -> None:
    (queue.home / "spool" / "config.toml").write_text("heartbeat = 60\n")
    result = queue("worker", "start", "--detach")
    assert (result.code, result.out) == (4, "")
    assert "must be at least 4 heartbeats" in result.err


def test_a_detached_worker_with_nothing_to_do(queue: Queuectl) -> None:
    result = queue("worker", "start", "--detach", "--until-empty")
    assert result.code == 0
    assert result.out or "The worker has ended already: nothing was left to do." in result.err


def test_flags_of_the_worker_are_settings(queue: Queuectl) -> None:
    enqueue(queue, quick="true")
    queue.ok("enqueue", "--id", "slow", "sleep 1000")
    flags = ["--default-timeout", "0.1s", "--backoff-base=0", "--max-retries=1", "--durability", "none",
             "--poll-interval=0.5", "--stop-grace=5", "--log-level=warning", "--heartbeat=5", "--stale-after=60",
             "--backoff-max=1m", "--jitter=full", "--min-free=1M", "--max-log=2M",
             "--permanent-exit-codes=65"]  # fmt: skip
    result = queue("worker", "start", "--until-empty", *flags)
    assert (result.code, result.out) == (0, "")
    assert "completed" not in result.err, "the log level is warning"
    assert queue.record("slow")["last_error"] == "timeout: after 0.1 s"


# -- settings and spools ----------------------------------------------------------------------------------------------


def test_config_keeps_comments(queue: Queuectl) -> None:
    config = queue.home / "spool" / "config.toml"
    config.write_text("# ours\nmax_retries = 4  # four\nunknown = 1\n")
    queue.ok("config", "set", "max-retries", "6")
    assert "# ours" in config.read_text()
    result = queue("config", "list", "--json")
    assert json.loads(result.out)["max-retries"] == {"value": 6, "source": "config.toml"}
    assert "unknown" in result.err
    queue.ok("config", "unset", "max-retries", "jitter")
    result = queue("config", "get", "max-retries")
    assert (result.code, result.out) == (0, "3\n")


def test_init(queue: Queuectl) -> None:
    place = queue.home / "new" / "spool"
    assert queue("init", str(place)) == (0, f"{place}\n", "")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert sorted(path.name for path in place.iterdir() if not path.name.startswith(".")) == [
        "completed", "dead", "failed", "logs", "pending", "processing", "workers",
    ]  # fmt: skip
    assert queue.json("init", "--spool", str(place)) == {"spool": str(place)}, "twice is no harm"
    assert queue("init") == (0, f"{queue.spool.root}\n", "")


def test_init_for_a_group(queue: Queuectl) -> None:
    group = grp.getgrgid(os.getegid())
    for name in (group.gr_name, str(group.gr_gid)):
        place = queue.home / f"group-{name}"
        queue.ok("init", str(place), "--group", name)
        for directory in (place, place / "pending", place / ".tmp"):
            found = directory.stat()
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o2770, group.gr_gid)


def test_the_demo_leaves_other_peoples_jobs_alone(queue: Queuectl) -> None:
    enqueue(queue, a="true")
    assert queue("demo", queue.spool.root) == (
        2, "", f"queuectl: {queue.spool.root} has jobs that wait; the demo's worker would run them. Name a new"
        " directory.\n",
    )  # fmt: skip
    assert ids(queue, "pending") == ["a"]


def test_fsck(queue: Queuectl) -> None:
    enqueue(queue, a="echo hi")
    queue.work()
    assert queue("fsck") == (0, "", "queuectl: Nothing is wrong.\n")
    assert queue.json("fsck") == []
    queue.ok("worker", "start", "--detach")
    assert queue("worker", "stop").code == 0
    assert queue("fsck").code == 0, "what a detached worker says is in its place"
    os.symlink("nobody.1=draft", queue.spool.dir(".ids") + "lost")
    result = queue("fsck")
    assert (result.code, result.err) == (
        1, "queuectl: 1 finding. `queuectl fsck --repair` mends what can be mended.\n",
    )  # fmt: skip
    assert ".ids/lost" in result.out
    (finding,) = json.loads(queue("fsck", "--json").out)
    assert (finding["kind"], finding["mended"]) == ("id", False)
    result = queue("fsck", "--repair")
    assert (result.code, result.err) == (0, "queuectl: 1 finding mended, 0 left for you to decide.\n")
    assert queue("fsck") == (0, "", "queuectl: Nothing is wrong.\n")


def test_fsck_mends_also_what_comes_of_its_mends(queue: Queuectl) -> None:
    """What is set aside has no id; what it has printed stays, and is told of."""
    enqueue(queue, a="echo hi", b="true")
    queue.work()
    for job_id in ("a", "b"):
        Path(queue.spool.dir("completed"), f"{job_id}.json").write_text("no job")
    result = queue("fsck", "--repair")
    assert (result.code, result.err) == (1, "queuectl: 2 findings mended, 1 left for you to decide.\n")
    assert re.search(r"^log +logs/a\.1\.log +there is no job a any more +left$", result.out, re.MULTILINE)
    assert os.listdir(queue.spool.dir(".ids")) == []
    assert queue("fsck", "--repair").err == "queuectl: 0 findings mended, 1 left for you to decide.\n"
