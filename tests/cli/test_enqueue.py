"""`enqueue`: what the options mean, what a batch accepts, and what is kept when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queuectl.core.times import parse_instant
from queuectl.spool import BATCH
from tests.cli.conftest import ID, LIMIT, Queuectl, matches
from tests.support import until

OPTIONS = [
    (["--id", "my-job_1"], {"id": "my-job_1"}),
    (["--priority", "10"], {"priority": 10}),
    (["--priority", "-10"], {"priority": -10}),
    (["--priority=-999"], {"priority": -999}),
    (["--max-retries", "0"], {"max_retries": 0}),
    (["--timeout", "90"], {"timeout": 90}),
    (["--timeout", "10m"], {"timeout": 600}),
    (["--timeout", "1h30m"], {"timeout": 5400}),
    (["--backoff-base", "1.5"], {"backoff_base": 1.5}),
    (["--run-at", "2040-01-01T00:00:00Z"], {"run_at": "2040-01-01T00:00:00.000000Z"}),
    (["--run-at", "2040-01-01T00:00:00"], {"run_at": "2039-12-31T23:00:00.000000Z"}),  # local time: Berlin
    (["--run-at", "2040-07-01"], {"run_at": "2040-06-30T22:00:00.000000Z"}),
    (["--cwd", "/tmp"], {"cwd": "/tmp"}),
    (["--cwd", "/tmp/../usr/"], {"cwd": "/usr"}),
    (["--env", "A=1"], {"env": {"A": "1"}}),
    (["--env", "A=1", "--env=B=x=y", "--env", "C="], {"env": {"A": "1", "B": "x=y", "C": ""}}),
]


@pytest.mark.parametrize(("options", "members"), OPTIONS, ids=lambda value: " ".join(value))
def test_options(queue: Queuectl, options: list[str], members: dict[str, Any]) -> None:
    job_id = queue.ok("enqueue", *options, "echo hi").strip()
    record = queue.record(job_id)
    assert {key: record[key] for key in members} == members
    assert record["command"] == "echo hi"


def test_options_may_follow_the_job(queue: Queuectl) -> None:
    assert queue.ok("enqueue", "echo hi", "--id", "a", "--priority", "3") == "a\n"
    assert queue.record("a")["priority"] == 3


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("3h", 10800), ("2d", 172800)])
def test_in_is_from_now(queue: Queuectl, text: str, seconds: int) -> None:
    record = queue.record(queue.ok("enqueue", "--in", text, "echo hi").strip())
    assert 0 <= seconds - (parse_instant(record["run_at"]) - parse_instant(record["created_at"])) / 1e9 < LIMIT


def test_options_win_over_members(queue: Queuectl) -> None:
    job = {"command": "x", "priority": 1, "timeout": 5, "cwd": "/usr", "env": {"A": "1", "B": "2"}, "note": "kept"}
    options = ["--priority", "2", "--cwd", "/tmp", "--env", "B=3", "--id", "a"]
    queue.ok("enqueue", json.dumps(job), *options)
    record = queue.record("a")
    assert (record["priority"], record["timeout"], record["cwd"], record["note"]) == (2, 5, "/tmp", "kept")
    assert record["env"] == {"A": "1", "B": "3"}


def test_the_working_directory_is_kept(queue: Queuectl) -> None:
    place = queue.home / "deep" / "down"
    place.mkdir(parents=True)
    for arguments in (["echo hi"], ['{"command": "echo hi"}'], ["--", "echo", "hi"]):
        job_id = queue.ok("enqueue", *arguments, cwd=place).strip()
        assert queue.record(job_id)["cwd"] == str(place)
    assert queue.record(queue.ok("enqueue", '{"command": "x", "cwd": "/usr"}', cwd=place).strip())["cwd"] == "/usr"
    assert queue.record(queue.ok("enqueue", "--cwd", "..", "x", cwd=place).strip())["cwd"] == str(place.parent)
    ids = queue.ok("enqueue", "--batch", "-", stdin='echo hi\n{"command": "x"}\n', cwd=place).split()
    assert [queue.record(job_id)["cwd"] for job_id in ids] == [str(place)] * 2


def test_a_command_may_begin_with_a_brace_or_a_dash(queue: Queuectl) -> None:
    job_id = queue.ok("enqueue", "--command", "{ echo a; echo b; }").strip()
    queue.ok("enqueue", "--id", "dash", "--max-retries=0", "--command=-x")
    queue.work()
    assert queue.ok("logs", "--raw", job_id) == "a\nb\n"
    assert queue.record("dash")["command"] == "-x"


def test_what_follows_the_dashes_is_taken_word_by_word(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "words", "--", "printf", "%s|", "a b", "--json", "--", "-x", "$HOME", "*")
    queue.work()
    assert queue.ok("logs", "--raw", "words") == "a b|--json|--|-x|$HOME|*|"


def test_json_prints_an_object(queue: Queuectl) -> None:
    assert queue.json("enqueue", "--id", "a", "x") == {"id": "a"}
    assert queue.ok("enqueue", "--json", "--batch", "-", stdin='{"command":"x","id":"b"}') == '{"id": "b"}\n'


def test_an_id_is_taken_once(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "x")
    assert queue("enqueue", "--id", "a", "y") == (
        2, "", "queuectl: id: a job named a exists already; choose another id, or leave it out.\n",
    )  # fmt: skip
    assert queue.record("a")["command"] == "x"


def test_a_new_spool_is_made_and_said(queue: Queuectl) -> None:
    place = queue.home / "some" / "where"
    result = queue("--spool", str(place), "enqueue", "x")
    assert (result.code, result.err) == (0, f"queuectl: Made a new spool at {place}.\n")
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("environ", "made"),
    [({"QUEUECTL_SPOOL": ""}, ".local/state/queuectl/spool"), ({"QUEUECTL_SPOOL": "", "XDG_STATE_HOME": "x"}, "x"),
     ({"QUEUECTL_SPOOL": "here"}, "here")],
)  # fmt: skip
def test_where_the_spool_is(queue: Queuectl, environ: dict[str, str], made: str) -> None:
    if "XDG_STATE_HOME" in environ:
        environ, made = {**environ, "XDG_STATE_HOME": str(queue.home / "x")}, "x/queuectl/spool"
    elsewhere = queue.home / "elsewhere"
    elsewhere.mkdir()
    place = elsewhere / made if made == "here" else queue.home / made
    assert queue("enqueue", "x", cwd=elsewhere, **environ).err == f"queuectl: Made a new spool at {place}.\n"
    # ./spool, where there is one, goes before $XDG_STATE_HOME.
    if made != "here":
        assert len(queue.json("list", cwd=queue.home, **environ)) == 0
        assert len(queue.json("list", cwd=elsewhere, **environ)) == 1


def test_the_command_lines_spool_option_wins_wherever_it_stands(queue: Queuectl) -> None:
    other = str(queue.home / "other")
    queue.ok("init", other)
    queue.ok("--spool", other, "enqueue", "--id", "a", "x")
    queue.ok("enqueue", "--spool", other, "--id", "b", "x")
    assert sorted(job["id"] for job in queue.json("list", f"--spool={other}")) == ["a", "b"]
    assert queue.json("list") == []


# -- batches ----------------------------------------------------------------------------------------------------------

BATCH_TEXT = """# nightly
echo one

{"command": "echo two", "id": "two", "priority": 5}
   # indented, and still a comment
  echo three; echo 'and # no comment'
"""


def test_a_batch_is_json_or_commands_line_by_line(queue: Queuectl, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(BATCH_TEXT)
    for name, stdin in (("jobs", None), ("-", BATCH_TEXT.replace('"two"', '"zwei"'))):
        result = queue("enqueue", "--batch", name, stdin=stdin)
        ids = result.out.split()
        assert (result.code, result.err, len(ids)) == (0, "", 3)
        assert matches(f"{ID}\n(two|zwei)\n{ID}\n", result.out)
        commands = [queue.record(job_id)["command"] for job_id in ids]
        assert commands == ["echo one", "echo two", "echo three; echo 'and # no comment'"]


def test_options_of_a_batch_are_for_all_its_jobs(queue: Queuectl) -> None:
    queue.ok("enqueue", "--batch", "-", "--priority", "4", "--env", "A=1", stdin='a\n{"command":"b","priority":9}\n')
    assert [job["priority"] for job in queue.json("list")] == [4, 4]


def test_an_empty_batch_accepts_nothing(queue: Queuectl) -> None:
    assert queue("enqueue", "--batch", "-", stdin="\n# nothing\n") == (0, "", "")
    assert queue("enqueue", "--batch", "-") == (0, "", "")


BAD_LINES = [
    ('{"priority": 3}', 'line 7: command: is missing; a job needs "command"'),
    ('{"command": "x", "priority": 1000}', "line 7: priority: must be a whole number from -999 to 999"),
    ('{"command": "x"', "line 7: not JSON: "),
    ('{"command": "x"} {"command": "y"}', "line 7: not JSON: Extra data"),
    ('{"command": "x", "id": "first"}', "line 7: id: first stands in line 1 already"),
    ('{"command": "x", "id": "old"}', "line 7: id: a job named old exists already"),
    ("echo \0", "line 7: command: holds a NUL character"),
    (b"echo \xff".decode("utf-8", "surrogateescape"), "line 7: byte 5 is not UTF-8"),
    ('{"command": "' + "x" * (1 << 20) + '"}', "line 7: the line is longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_LINES, ids=lambda value: value[:40])
def test_a_bad_line_ends_a_batch_and_is_named(queue: Queuectl, line: str, sentence: str) -> None:
    queue.ok("enqueue", "--id", "old", "x")
    good = ['{"command": "x", "id": "first"}', *(f"echo {number}" for number in range(2, 7))]
    batch = "\n".join([*good, line, "echo after"]).encode("utf-8", "surrogateescape")
    result = queue("enqueue", "--batch", "-", stdin=batch)
    assert result.code == 2
    assert result.err.startswith(f"queuectl: {sentence}"), result.err
    assert result.err.endswith(" 6 jobs were accepted; mend the line and enqueue from line 7 on.\n")
    ids = result.out.split()
    assert (len(ids), ids[0]) == (6, "first")
    assert sorted(job["id"] for job in queue.json("list")) == sorted([*ids, "old"])


def test_a_bad_line_after_several_chunks(queue: Queuectl) -> None:
    count = 2 * BATCH + 10
    batch = "".join(f"echo {number}\n" for number in range(count)) + '{"id": "x"}\n'
    result = queue("enqueue", "--batch", "-", stdin=batch)
    assert (result.code, len(result.out.split())) == (2, count)
    assert f"{count:,} jobs were accepted; mend the line and enqueue from line {count + 1} on." in result.err
    assert queue.json("status")["pending"] == count


def test_a_slow_writers_jobs_are_accepted_as_they_come(queue: Queuectl) -> None:
    process = queue.start("enqueue", "--batch", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        process.stdin.write(f"echo {number}\n")
        process.stdin.flush()
        job_id = process.stdout.readline().strip()
        assert queue.record(job_id)["command"] == f"echo {number}"
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (0, "", "")


def test_all_of_a_batch_is_accepted_though_nobody_reads_the_ids(queue: Queuectl) -> None:
    """`| head -1` ends the reading, not the enqueueing."""
    count = 3 * BATCH
    (queue.home / "jobs").write_text("".join(f"echo {number}\n" for number in range(count)))
    process = queue.start("enqueue", "--batch", "jobs")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(LIMIT) == 0
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert queue.json("status")["pending"] == count


def test_jobs_of_a_batch_run_in_their_order(queue: Queuectl) -> None:
    ids = queue.ok("enqueue", "--batch", "-", stdin="".join(f"echo {number}\n" for number in range(100))).split()
    assert [job["id"] for job in queue.json("list", "--limit", "0")] == ids


# -- what it costs ----------------------------------------------------------------------------------------------------

HEAVY = (
    "dataclasses", "datetime", "subprocess", "argparse", "logging", "shlex", "pathlib", "tomllib", "tomlkit",
    "importlib.metadata", "inspect", "threading", "tempfile", "difflib", "filelock", "watchdog", "random", "signal",
    "select", "queuectl.lease", "queuectl.worker", "queuectl.cli.render", "queuectl.cli.batch", "queuectl.cli.usage",
)  # fmt: skip


def test_enqueue_imports_only_what_it_needs(queue: Queuectl) -> None:
    code = (
        "import sys; from queuectl.cli import main; code = main(sys.argv[1:]);"
        " print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "enqueue", "--priority", "3", "echo hi"], env=queue.environ, cwd=queue.home,
        capture_output=True, text=True, timeout=LIMIT, check=True,
    )  # fmt: skip
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], env=queue.environ,
                          capture_output=True, text=True, timeout=LIMIT, check=True).stdout.split()  # fmt: skip
    loaded = set(done.stderr.split()) - set(bare)
    assert "docopt" in loaded
    assert not loaded & set(HEAVY)


def test_a_person_is_told_that_nobody_works(queue: Queuectl) -> None:
    told = "queuectl: No worker is running; the job waits. `queuectl worker start` starts one.\n"
    assert queue.on_terminal("enqueue", "--id", "a", "x") == (0, f"a\n{told}", "")
    queue.ok("worker", "start", "--detach")
    try:
        assert queue.on_terminal("enqueue", "--id", "b", "x") == (0, "b\n", "")
    finally:
        queue("worker", "stop", "--now")
    until(lambda: not os.listdir(queue.spool.dir("workers")), LIMIT)


def test_a_batch_runs_no_part_of_a_line_that_is_too_long(queue: Queuectl) -> None:
    """What came behind the first MiB of a comment was enqueued as a command."""
    long = "# " + "x" * (1 << 20) + "\n"
    assert queue.ok("enqueue", "--batch", "-", stdin=f"true\n{long}true\n{'# ' + ' rm x' * 700_000}").count("\n") == 2
    assert {job["command"] for job in queue.json("list")} == {"true"}
    result = queue("enqueue", "--batch", "-", stdin=f"{long}{'y' * (2 << 20)}\ntrue\n")
    assert result.code == 2
    assert "line 2: the line is longer than 1048576 bytes" in result.err
    result = queue("enqueue", "--batch", "-", stdin=f"{' ' * (2 << 20)}true\n")
    assert (result.code, result.out) == (2, "")
    assert "line 1: the line is longer than 1048576 bytes" in result.err
