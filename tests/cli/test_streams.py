"""Pipes that close, streams that are not there, disks that are full, text that is none."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, LIMIT, Queuectl

SHELL = ["/bin/bash", "-c"]


def shell(queue: Queuectl, script: str, **environ: str) -> tuple[int, str, str]:
    """Run a line of bash in which `queuectl` is the command; with pipefail."""
    words = " ".join(COMMAND)
    done = subprocess.run(
        [*SHELL, f"set -o pipefail; queuectl() {{ {words} \"$@\"; }}; {script}"], env={**queue.environ, **environ},
        cwd=queue.home, capture_output=True, timeout=LIMIT, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "command", ["list --limit 0", "list --json --limit 0", "help", "--help", "config list", "logs --raw long"]
)
def test_a_closed_pipe_is_no_error(queue: Queuectl, command: str) -> None:
    queue.ok("enqueue", "--batch", "-", stdin=f"echo {'x' * 500}\n" * 300)
    queue.ok("enqueue", "--id", "long", "seq 100000")
    if "long" in command:
        queue.work()
    code, out, err = shell(queue, f"queuectl {command} | head -1")
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    assert shell(queue, f"queuectl {command} | true") == (0, "", "")


def test_a_closed_pipe_does_not_end_cancelling_half_way(queue: Queuectl) -> None:
    ids = queue.ok("enqueue", "--batch", "-", stdin="true\n" * 20).split()
    assert shell(queue, f"queuectl cancel {' '.join(ids)} | true") == (0, "", "")
    assert queue.json("status")["dead"] == 20


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(queue: Queuectl, closed: str) -> None:
    """The next file that is opened must not become stdout: the id would be written into a job."""
    code, out, err = shell(queue, f"queuectl enqueue --id a 'echo hi' {closed}")
    assert (code, out, err) == (0, "" if ">&-" in closed.split() else "a\n", "")
    assert queue.record("a")["command"] == "echo hi"
    for command in ("list", "status --json", "show a", "--help"):
        code, out, err = shell(queue, f"queuectl {command} {closed}")
        assert (code, err) == (0, "") or "No worker" in err


def test_a_batch_from_a_closed_stdin_is_empty(queue: Queuectl) -> None:
    assert shell(queue, "queuectl enqueue --batch - <&-") == (0, "", "")


def test_errors_are_not_lost_in_a_closed_stderr(queue: Queuectl) -> None:
    assert shell(queue, "queuectl show nope 2>&-") == (1, "", "")
    assert shell(queue, "queuectl nope 2>&-") == (2, "", "")


@pytest.mark.parametrize("command", ["list", "status", "--help", "config list"])
def test_output_that_cannot_be_written(queue: Queuectl, command: str) -> None:
    queue.ok("enqueue", "x")
    code, _, err = shell(queue, f"queuectl {command} > /dev/full")
    sentence = "queuectl: Could not write the output: stdout: No space left on device. Look where the output goes.\n"
    assert code == 3
    assert err.endswith(sentence)
    assert "Traceback" not in err


def test_who_cannot_be_told_the_id_is_told_that_the_job_was_accepted(queue: Queuectl) -> None:
    """Else a script would enqueue it again."""
    code, _, err = shell(queue, "queuectl enqueue --id a x > /dev/full")
    then = "accepted, but stdout could not be written: No space left on device. Look where the output goes, and do not"
    assert (code, err) == (3, f"queuectl: Job a was {then} enqueue again.\n")
    assert queue.state("a") == "pending"
    code, _, err = shell(queue, "printf 'true\\ntrue\\n' | queuectl enqueue --batch - > /dev/full")
    assert code == 3
    assert re.fullmatch(f"queuectl: 2 jobs \\(the first is [a-z0-9]+\\) were {then} enqueue again.\n", err)
    assert queue.json("status")["pending"] == 3


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_any_locale_will_do(queue: Queuectl, locale: str) -> None:
    command = "echo caf\u00e9 \u65e5\u672c"
    queue.ok("enqueue", "--id", "a", command, LC_ALL=locale)
    assert queue.record("a")["command"] == command
    for words in (["list"], ["show", "a"]):
        result = queue(*words, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert result.code == 0
        assert "Traceback" not in result.err
    assert queue.json("list", LC_ALL=locale)[0]["command"] == command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([b"echo \xff"], "'echo \\udcff' is not UTF-8"),
        (["--command", b"\xff"], "'\\udcff' is not UTF-8"),
        (["--env", b"A=\xff", "x"], "'A=\\udcff' is not UTF-8"),
        (["--", "echo", b"\xff"], "'\\udcff' is not UTF-8"),
        (["--cwd", b"/\xff", "x"], "'/\\udcff' is not UTF-8"),
        ([b'{"command": "\xff"}'], "is not UTF-8"),
        (["--id", b"\xff", "x"], "id: "),
    ],
)
def test_arguments_that_are_no_text(queue: Queuectl, arguments: list[str | bytes], sentence: str) -> None:
    result = queue("enqueue", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("queuectl: ")
    assert sentence in result.err
    assert queue.json("status")["total"] == 0


def test_a_working_directory_that_is_gone(queue: Queuectl) -> None:
    gone = "mkdir gone && cd gone && rmdir ../gone"
    assert shell(queue, f"{gone} && queuectl enqueue x") == (
        2, "", "queuectl: The working directory is gone. Change to another one, or give --cwd /DIR.\n",
    )  # fmt: skip
    assert shell(queue, f"{gone} && queuectl enqueue --cwd / --id a x")[:2] == (0, "a\n")


def test_a_spool_that_may_not_be_read(queue: Queuectl, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "spool" / "pending").rmdir()
        (tmp_path / "spool" / "pending").write_text("")
    else:
        (tmp_path / "spool" / "pending").chmod(0)
    for command in (["list"], ["status"], ["enqueue", "x"], ["show", "x"]):
        result = queue(*command)
        assert (result.code, result.out) == (3, "")
        assert result.err.startswith("queuectl: ")
        assert "Traceback" not in result.err
    (tmp_path / "spool" / "pending").chmod(0o700)
