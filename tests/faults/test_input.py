"""Rows 30 and 65 to 82: foreign names and files, slow writers, and settings that are broken while a worker runs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from queuectl import config
from queuectl.spool import Spool
from tests.faults.patched import completes
from tests.support import drop, listing, places, queuectl, until, worker


def test_row_30_what_a_network_file_system_leaves_behind_is_ignored(spool: Spool) -> None:
    for state in ("pending", "failed", "processing", "completed", "dead", ".tmp", "workers", "logs"):
        Path(spool.dir(state) + ".nfs000000000000abcd00000001").write_text('{"command": "true"}')
        os.mkdir(spool.dir(state) + ".snapshot")
    spool.enqueue("true", id="one")
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert listing(spool, "completed") == [".nfs000000000000abcd00000001", ".snapshot", "one.json"]
    listed = json.loads(queuectl(spool, "list", "--json", "--state", "completed").stdout)
    assert [job["id"] for job in listed] == ["one"]


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"a\nb", b"'quote\"\x1b[31m", "\u202etxt.".encode(), "é".encode() * 125],
    ids=["no UTF-8", "newline", "quotes and escape", "right to left", "255 bytes"],
)  # fmt: skip
def test_row_65_and_66_a_job_under_any_name_runs_and_no_name_breaks_what_is_shown(spool: Spool, name: bytes) -> None:
    drop(spool, name + b".json", {"command": "true", "id": "one"})
    with worker(spool) as process:
        drop(spool, name[:240] + b"-bad.json", {"command": 5})
        completes(spool, "one")
        until(lambda: list(spool.rejected()), what="the bad one is set aside")
        assert process.end() == 0
    assert all(line.isprintable() for line in process.said.split("\n")), "nothing reaches a terminal as it is"
    for command in (["dlq", "list"], ["dlq", "list", "--json"]):
        shown = queuectl(spool, *command)
        assert shown.returncode == 0, shown.stderr
        assert all(line.isprintable() for line in shown.stdout.split("\n"))
        if "--json" in command:
            json.loads(shown.stdout)


def test_row_75_a_name_that_says_another_job_than_its_content_is_set_aside_and_not_run(spool: Spool) -> None:
    drop(spool, "20200101T000000.000000Z.p0.a0.mine.json", {"command": "true", "id": "yours"})
    drop(spool, "20200101T000000.000000Z.p0.a0.right.json", {"command": "true", "id": "right", "attempts": 7,
                                                              "run_at": "2040-01-01T00:00:00Z"})  # fmt: skip
    with worker(spool):
        completes(spool, "right")
        until(lambda: list(spool.rejected()), what="it is set aside")
    assert (places(spool, "mine"), places(spool, "yours")) == ([], [])
    ((_, reason),) = spool.rejected()
    assert reason == "id: the file's name says mine, its content yours; let both say the same"


def test_row_77_a_file_that_is_written_slowly_runs_once_it_is_whole(spool: Spool, tmp_path: Path) -> None:
    whole = json.dumps({"command": f"echo run >> {tmp_path}/runs", "id": "one"})
    go = threading.Event()

    def write() -> None:
        with open(spool.dir("pending") + "slow.json", "w") as file:
            for letter in whole:
                file.write(letter)
                file.flush()
                go.wait(0.002)

    with worker(spool) as process:
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        completes(spool, "one")
        assert process.end() == 0
    assert (tmp_path / "runs").read_text() == "run\n"
    assert list(spool.rejected()) == []


@pytest.mark.parametrize("broken", ["jitter = ", "jitter = 5\n", "heartbeat = 'soon'\n", "\0\0", "[[["], ids=ascii)
def test_row_79_settings_that_break_while_a_worker_runs_leave_the_last_good_ones(spool: Spool, broken: str) -> None:
    spool.change_config({"max-retries": "0"})
    with worker(spool) as process:
        drafted = Path(spool.config_path + ".new")
        drafted.write_text(broken)
        drafted.rename(spool.config_path)
        until(lambda: "The last good settings stay in force." in process.said, what="it says so")
        spool.enqueue("false", id="fails")
        until(lambda: spool.has_ended("fails", "dead"), what="the job fails without a retry, as was set")
        refused = queuectl(spool, "config", "list")
        assert (refused.returncode, "Traceback" in refused.stderr) == (4, False)
        os.unlink(spool.config_path)  # of which nobody tells
        spool.enqueue("false", id="fails-too")
        until(lambda: spool.has_ended("fails-too", "dead"), what="the last good settings stay in force")
        spool.change_config({"log-level": "debug"})
        until(lambda: "settings: the trouble is over" in process.said, what="a good file is taken")
        assert process.end() == 0


def test_row_81_two_who_hold_a_lock_that_was_deleted_lose_no_change(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomlkit

    spool.change_config({"max-retries": "1"})
    real = tomlkit.parse

    def late(text: str) -> tomlkit.TOMLDocument:
        """Between the reading and the writing of one, another one deletes the lock, and changes a setting."""
        document = real(text)
        monkeypatch.undo()
        os.unlink(spool.config_path + ".lock")
        Spool(spool.root, durability="none").change_config({"jitter": "full"})
        return document

    monkeypatch.setattr(tomlkit, "parse", late)
    spool.change_config({"heartbeat": "5"})
    loaded = config.load(spool.config_path, {})
    assert (loaded.jitter, loaded.heartbeat) == ("full", 5.0)
