"""`status`, `list`, `show`, `logs`: what people and scripts see of jobs, in every state, and of hostile ones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from queuectl.core.times import SECOND, stamp
from tests.cli.conftest import COMMAND, LIMIT, Queuectl, matches
from tests.support import WorkerProcess, drop, until, worker

SECRET = "swordfish"


def place(queue: Queuectl, path: str, body: object = None, *, modified: float | None = None) -> None:
    """Put a job's file where a state has it."""
    file = queue.home / "spool" / path
    file.write_text(json.dumps(body if body is not None else {"command": "true"}))
    if modified is not None:
        os.utime(file, (modified, modified))


def ids(queue: Queuectl, *arguments: str) -> list[str]:
    return [job["id"] for job in queue.json("list", *arguments)]


def test_order(queue: Queuectl) -> None:
    """Running; waiting, as they will run: what may run now by priority and age, then by time; retries; ended ones."""
    early, late, future, future2 = (stamp(second * SECOND) for second in (10**9, 10**9 + 1, 3 * 10**9, 3 * 10**9 + 1))
    place(queue, f"pending/{early}.p0.a0.old.json")
    place(queue, f"pending/{late}.p0.a0.young.json")
    place(queue, f"pending/{late}.p-5.a0.low.json")
    place(queue, f"pending/{late}.p10.a0.high.json")
    place(queue, f"pending/{future2}.p99.a0.tomorrow.json")
    place(queue, f"pending/{future}.p0.a0.soon.json")
    place(queue, f"failed/{future}.p0.a1.retry2.json")
    place(queue, f"failed/{early}.p0.a1.retry1.json")
    place(queue, f"processing/{early}.p0.a1.runs@nobody-1-x.1.json")
    for number, name in enumerate(("first", "third", "second")):
        place(queue, f"completed/{name}.json", modified=1e9 + {"first": 1, "second": 2, "third": 3}[name])
        place(queue, f"dead/d{number}.json", modified=1e9 + number)
    everything = [
        "runs", "high", "old", "young", "low", "soon", "tomorrow", "retry1", "retry2", "third", "second", "first",
        "d2", "d1", "d0",
    ]  # fmt: skip
    assert ids(queue) == everything
    assert ids(queue, "--limit", "0") == everything
    for limit in range(1, len(everything)):
        result = queue("list", "--json", "--limit", str(limit))
        assert [job["id"] for job in json.loads(result.out)] == everything[:limit]
        assert result.err == f"queuectl: {len(everything) - limit} more are not shown; `--limit 0` shows all.\n"


def test_list_shows_fifty_and_says_how_many_more(queue: Queuectl) -> None:
    queue.ok("enqueue", "--batch", "-", stdin="true\n" * 61)
    result = queue("list")
    assert (len(result.out.splitlines()), result.err) == (
        51, "queuectl: 11 more are not shown; `--limit 0` shows all.\n",
    )  # fmt: skip
    assert len(queue.ok("list", "--limit", "0").splitlines()) == 62
    assert len(queue.json("list", "--limit", "61")) == 61


def test_an_empty_spool(queue: Queuectl) -> None:
    assert queue("list") == (0, "", "")
    assert queue.json("list") == []
    assert queue("dlq", "list") == (0, "", "")
    assert queue.json("dlq", "list") == []
    assert queue("worker", "stop") == (0, "", "queuectl: No worker is running.\n")
    assert queue.json("status")["total"] == 0


def test_status_says_that_nobody_works(queue: Queuectl) -> None:
    queue.ok("enqueue", "x")
    assert queue("status").err == "queuectl: No worker is running. `queuectl worker start` starts one.\n"


# -- show -------------------------------------------------------------------------------------------------------------


def test_show_tells_all_of_a_job(queue: Queuectl) -> None:
    options = ["--max-retries", "1", "--timeout", "90", "--backoff-base", "1", "--env", f"KEY={SECRET}"]
    queue.ok("enqueue", "--id", "bad", *options, "echo no; exit 3")
    queue.work()
    out = queue.ok("show", "bad")
    assert matches(
        rf"""Job          bad
State        dead
Reason       it is in the dead letter queue: exit code 3; `queuectl dlq retry bad` gives it another life
Command      echo no; exit 3
Priority     0
Attempts     2 of 2 at most
Created      \S+ \S+ \+0[12]00
Updated      \S+ \S+ \+0[12]00
Directory    {queue.home}
Environment  KEY=\*\*\*
Timeout      90s
Backoff      1 \^ attempts seconds
File         {queue.spool.root}/dead/bad.json

History
   1  exit code 3, [0-9.]+s, \S+ \S+ \+0[12]00, on \S+, bad\.1\.log
   2  exit code 3, [0-9.]+s, \S+ \S+ \+0[12]00, on \S+, bad\.2\.log
""",
        out,
    ), out
    shown = queue.json("show", "bad")
    assert (shown["state"], shown["attempts"], shown["exit_code"], len(shown["history"])) == ("dead", 2, 3, 2)
    assert shown["history"][0]["started_at"].endswith("Z")


@pytest.mark.parametrize("command", [["show", "a"], ["list"], ["logs", "a"], ["dlq", "list"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_values_of_the_environment_are_never_shown(queue: Queuectl, command: list[str], form: list[str]) -> None:
    body = {"command": "true", "env": {"KEY": SECRET}, "payload": {"env": {"KEY": SECRET}}, "id": "a"}
    queue.ok("enqueue", json.dumps(body))
    if command[0] == "dlq":
        assert queue("cancel", "a").code == 0
    result = queue(*command, *form)
    assert "true" in result.out
    assert SECRET not in result.out + result.err
    assert queue.record("a")["env"] == {"KEY": SECRET}


def test_why_a_job_waits(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "later", "--run-at", "2040-01-01T00:00:00Z", "true")
    queue.ok("enqueue", "--id", "now", "true")
    assert queue.json("show", "later")["reason"].startswith("it waits until 2040-01-01 01:00:00 +0100 (for another ")
    reason = "it waits for a worker: none is alive; `queuectl worker start` starts one"
    assert queue.json("show", "now")["reason"] == reason


def test_why_a_job_waits_while_others_run(queue: Queuectl, at_work: WorkerProcess) -> None:
    queue.ok("enqueue", "--batch", "-", stdin='{"command":"sleep 1000","id":"a"}\n{"command":"sleep 1000","id":"b"}\n')
    queue.await_state("a", "processing")
    queue.await_state("b", "processing")
    queue.ok("enqueue", "--id", "c", "true")
    assert queue.json("show", "c")["reason"] == "it waits for a slot: all 2 are busy"
    assert matches(r"it runs on \S+ since \S+ \S+ \+0[12]00, by worker \S+", queue.json("show", "a")["reason"])
    queue.ok("config", "set", "min-free", "1024T")
    assert "and no job is started below 1,073,741,824 MiB (setting min-free)" in queue.json("show", "c")["reason"]
    at_work.kill()
    assert "is dead; whoever works next takes the job back" in queue.json("show", "a")["reason"]


def test_why_a_job_is_tried_again(queue: Queuectl, at_work: WorkerProcess) -> None:
    queue.ok("enqueue", "--id", "bad", "--backoff-base", "1000", "false")
    queue.await_state("bad", "failed")
    assert queue.json("show", "bad")["reason"].startswith("its last attempt failed (exit code 1); it waits until ")


def test_what_became_of_a_dropped_file(queue: Queuectl) -> None:
    drop(queue.spool, "good.json", {"command": "true"})
    drop(queue.spool, "bad.json", '{"comand": "true"}')
    shown = queue("show", "good")
    assert (shown.code, shown.err) == (1, "")
    assert shown.out == (
        f"File    {queue.spool.root}/pending/good.json\nState   pending\nReason  no worker has looked at it yet\n"
        "Next    `queuectl worker start` starts one\n"
    )
    assert "Reason  it is no job: command: is missing" in queue("show", "bad.json").out
    assert [(job["id"], job["file"]) for job in queue.json("list")] == [(None, "bad.json"), (None, "good.json")]
    os.unlink(queue.spool.dir("pending") + "bad.json")
    with worker(queue.spool):
        queue.await_state(queue.ok("enqueue", "true").strip(), "completed")
        drop(queue.spool, "bad.json", '{"comand": "true"}')
        until(lambda: any(name.startswith("bad") for name in os.listdir(queue.spool.dir("dead"))), LIMIT)
    shown = queue("show", "bad")
    assert (shown.code, shown.err) == (1, "")
    assert "State   rejected" in shown.out
    assert "Reason  it is no job: command: is missing" in shown.out
    (rejected,) = queue.json("dlq", "list")
    assert (rejected["file"], rejected["state"]) == ("bad.json.rejected", "rejected")
    assert "(bad.json.rejected)" in queue.ok("dlq", "list")


# -- logs -------------------------------------------------------------------------------------------------------------


def test_logs_of_any_attempt(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "--backoff-base", "0", "--max-retries", "2", "echo $QUEUECTL_ATTEMPT; false")
    queue.work()
    assert queue.ok("logs", "--raw", "a") == "3\n"
    assert [queue.ok("logs", "--raw", "a", "--attempt", str(number)) for number in (1, 2, 3)] == ["1\n", "2\n", "3\n"]
    assert queue("logs", "a", "--attempt", "4") == (1, "", "queuectl: a has had 3 attempts, not 4.\n")


def test_a_job_whose_outcome_cannot_be_written_is_not_denied(queue: Queuectl) -> None:
    """completed/ is closed to its worker: the job is behind the fence of its settle, and in no state."""
    stem = "20200101T000000.000000Z.p0.a1.a@nobody-1-x.1"
    (queue.home / "spool" / ".tmp" / f"{stem}=spent").write_text('{"command": "true"}')
    place(queue, f".tmp/{stem}=completed.json")
    shown = queue("show", "a")
    assert (shown.code, shown.err) == (0, "")
    assert "Problem      it has ended, but its outcome cannot be written; its worker says why" in shown.out


def test_a_log_that_somebody_has_removed_is_not_nothing_printed(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "echo hi")
    queue.work()
    log = Path(queue.spool.dir("logs"), "a.1.log")
    log.unlink()
    told = f"queuectl: What attempt 1 of a printed is gone: somebody has removed {log}.\n"
    assert queue("logs", "a") == (1, "Job      a\nCommand  echo hi\nState    completed\n\n", told)
    assert queue("logs", "--raw", "a") == (1, "", told)


def test_status_says_that_too_little_is_free(queue: Queuectl, at_work: WorkerProcess) -> None:
    queue.ok("config", "set", "min-free", "1024T")
    assert queue("status").err == "", "no job waits for it"
    queue.ok("enqueue", "--id", "a", "true")
    assert matches(
        r"queuectl: Only [\d,]+ MiB are free, and no job is started below 1,073,741,824 MiB \(setting min-free\)\.\n",
        queue("status").err,
    )


def test_logs_of_nothing(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "quiet", "true")
    head = "Job      quiet\nCommand  true\nState    pending\n\n"
    told = "queuectl: quiet has not run yet. `queuectl show quiet` says why; --follow waits for it.\n"
    assert queue("logs", "quiet") == (1, head, told)
    queue.work()
    head = head.replace("pending", "completed")
    assert queue("logs", "quiet") == (0, head, "queuectl: Attempt 1 of quiet printed nothing.\n")
    assert queue("logs", "--raw", "quiet") == (0, "", "")


def test_logs_follow_a_job_from_before_its_start_to_its_end(queue: Queuectl) -> None:
    gate = queue.home / "gate"
    os.mkfifo(gate)
    queue.ok("enqueue", "--id", "slow", f"echo begun; read line < {gate}; echo $line")
    process = queue.start("logs", "--follow", "--raw", "slow")
    assert process.stdout is not None
    queue.ok("worker", "start", "--detach")
    try:
        assert process.stdout.readline() == "begun\n"
        assert queue.ok("logs", "--raw", "slow") == "begun\n", "the running attempt's output can be read"
        gate.write_text("ended\n")
        out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out, err) == (0, "ended\n", "")
    finally:
        queue("worker", "stop", "--now")


def test_logs_follow_a_job_that_was_cancelled_before_it_ran_says_so(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "never", "true")
    queue("cancel", "never")
    assert queue("logs", "--follow", "never") == (1, "", "queuectl: never has ended as dead without having run.\n")


def test_raw_output_is_byte_by_byte(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "bytes", r"printf '\000\377\033[31m\r\n'")
    queue.work()
    done = subprocess.run([*COMMAND, "logs", "--raw", "bytes"], env=queue.environ, capture_output=True, check=True)
    assert done.stdout == b"\x00\xff\x1b[31m\r\n"


# -- what a terminal must not act on ----------------------------------------------------------------------------------

HOSTILE = "echo '\x1b]0;owned\x07' \u202etxt.exe \x9b31m\u200b caf\u00e9"
SHOWN = r"echo '\x1b]0;owned\x07' \u202etxt.exe \x9b31m\u200b café"


@pytest.mark.parametrize("command", [["list"], ["show", "a"], ["logs", "a"], ["dlq", "list"]])
def test_control_characters_are_escaped(queue: Queuectl, command: list[str]) -> None:
    queue.ok("enqueue", json.dumps({"command": HOSTILE, "id": "a", "max_retries": 0}))
    if command[0] == "dlq":
        assert queue("cancel", "a").code == 0
    for result in (queue(*command), queue.on_terminal(*command, columns=300, NO_COLOR="1")):
        assert SHOWN in result.out
        assert all(letter.isprintable() or letter == "\n" for letter in result.out)
    document = queue(*command, "--json").out
    found = json.loads(document)
    assert (found[0] if isinstance(found, list) else found)["command"] == HOSTILE
    assert all(letter.isprintable() or letter == "\n" for letter in document)


def test_names_that_are_no_text(queue: Queuectl) -> None:
    drop(queue.spool, b"caf\xe9\x1b[2J\n.json", {"command": "true"})
    assert r"(caf\xe9\x1b[2J\n.json)" in queue.ok("list")
    (job,) = queue.json("list")
    assert (job["id"], job["file"]) == (None, "caf\\xe9\x1b[2J\n.json")


def test_output_on_a_terminal_is_escaped_unless_raw(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", r"printf 'one\ttwo\n\033[31mred\377\n'")
    queue.work()
    assert queue.on_terminal("logs", "a", NO_COLOR="1").out.endswith("\none\ttwo\n\\x1b[31mred\\xff\n")
    assert queue.on_terminal("logs", "--raw", "a").out == "one\ttwo\n\x1b[31mred\ufffd\n"


def test_colour_only_on_a_terminal(queue: Queuectl) -> None:
    queue.ok("enqueue", "x")
    assert "\x1b[33mpending\x1b[0m" in queue.on_terminal("list").out
    assert "\x1b" not in queue.on_terminal("list", NO_COLOR="1").out
    assert "\x1b" not in queue.on_terminal("list", TERM="dumb").out
    assert "\x1b" not in queue.ok("list")


def test_times_of_today_are_short_on_a_terminal_only(queue: Queuectl) -> None:
    midday = subprocess.check_output(["date", "+%Y-%m-%dT12:00:00"], env=queue.environ, text=True).strip()
    queue.ok("enqueue", "--run-at", midday, "x")
    short = queue.on_terminal("list", NO_COLOR="1").out.splitlines()[1]
    long = queue.ok("list").splitlines()[1]
    assert matches(r"\S+  pending  0         0         \d\d:\d\d:\d\d \+0[12]00      x", short), short
    assert matches(r"\S+  pending  0         0         \S+ \S+ \+0[12]00  x", long)


def test_a_table_fits_the_terminal(queue: Queuectl) -> None:
    queue.ok("enqueue", "echo " + "\u65e5\u672c" * 100)
    lines = queue.on_terminal("list", columns=100, NO_COLOR="1").out.splitlines()
    assert lines[1].endswith("...")
    assert len(lines) == 2


def test_a_job_that_cannot_be_read_is_listed_with_the_reason(queue: Queuectl, tmp_path: Path) -> None:
    (tmp_path / "spool" / "dead" / "odd.json").write_text("{")
    assert "(no job: not JSON" in queue.ok("list")
    assert queue.json("list")[0]["problem"].startswith("not JSON")
    assert queue("show", "odd").code == 0
    assert queue("logs", "odd").code == 1
    result = queue("dlq", "retry", "odd")
    assert result.code == 1
    assert result.err.startswith("queuectl: dead/odd.json is no job any more: not JSON")
