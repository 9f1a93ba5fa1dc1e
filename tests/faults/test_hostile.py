"""Rows 93 to 100, as far as the spool and the terminal are concerned."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from queuectl.errors import BadJob
from queuectl.spool import Spool
from tests.faults.patched import completes, patched
from tests.support import drop, environment, mode, queuectl, until, worker

CANARY = "c4n4ry-5ecret"


def test_row_93_a_file_that_is_swapped_for_a_link_all_the_time_is_never_read_through_it(
    spool: Spool, tmp_path: Path
) -> None:
    """Whether it is a file is asked of what was opened, so there is no moment between the question and the reading."""
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"command": "true", "id": "secret"}))
    os.utime(secret, (1, 1))
    path = spool.dir("pending") + "x.json"
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            draft = tmp_path / "draft"
            draft.write_text(json.dumps({"command": "true"}))
            os.replace(draft, path)
            draft.symlink_to(secret)
            os.replace(draft, path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    refused = 0
    try:
        deadline = time.monotonic() + 10
        while refused < 100 and time.monotonic() < deadline:
            try:
                spool.adopt("x.json", time.time_ns())
            except BadJob:
                refused += 1
    finally:
        ended.set()
        swapping.join()
    assert refused == 100
    assert os.stat(secret).st_atime == 1
    # Its last rename may have caught the link itself; then a worker refuses that when it reads it.
    for entry in spool.entries(["pending"]):
        if entry.id and os.path.islink(spool.path_of(entry)):
            try:
                spool.load(entry)
                raise AssertionError("a link was read")
            except BadJob:
                continue


def test_row_95_among_a_thousand_bad_files_a_good_job_runs(spool: Spool) -> None:
    for number in range(1000):
        drop(spool, f"junk{number}.json", b"{")
    spool.enqueue("true", id="good")
    with worker(spool, "--log-level", "error") as process:
        completes(spool, "good")
        assert process.process.poll() is None


def test_row_95_of_a_flood_a_part_is_remembered_and_a_good_job_waits_for_none_of_it(spool: Spool) -> None:
    few = """
import queuectl.admission as admission
admission.MOST, admission.LOOKS, admission.SETTLE_TIME = 50, 10, 0.2
real = admission.Admission.turn
def turn(self, *words):
    assert len(self) <= 50
    self.looked = 0
    return real(self, *words)
def look(self, *words, real=admission.Admission._look):
    self.looked += 1
    assert self.looked <= 10
    return real(self, *words)
admission.Admission.turn, admission.Admission._look = turn, look
"""
    for number in range(400):
        drop(spool, f"junk{number}.json", b"{" if number % 2 else b"")
    drop(spool, "zzz.json", {"command": "true", "id": "dropped"})
    spool.enqueue("true", id="enqueued")
    with patched(spool, few, "--log-level", "error") as process:
        completes(spool, "enqueued")
        completes(spool, "dropped", 60)
        until(lambda: len(list(spool.rejected())) == 400, 60, what="all the rest is set aside")
        assert process.end() == 0, process.said


def test_row_96_what_is_in_the_environment_is_shown_nowhere_but_in_the_jobs_own_file(spool: Spool) -> None:
    variables = {"TOKEN": CANARY}
    spool.enqueue("exit 3", id="fails", env=variables, max_retries=0)
    spool.enqueue_many([{"argv": ["/no/such/program"], "id": "unfound", "env": variables, "max_retries": 0}])
    with worker(spool, "--log-level", "debug", TOKEN=CANARY) as process:
        drop(spool, "bad.json", {"command": "true", "env": {"TOKEN": CANARY, "PORT": 5}})
        drop(spool, "worse.json", '{"command": "true", "env": {"TOKEN": "' + CANARY + '"}, "env": {}}')
        until(lambda: spool.has_ended("fails", "dead") and spool.has_ended("unfound", "dead"), what="both have failed")
        until(lambda: len(list(spool.rejected())) == 2, what="the bad files are set aside")
        assert process.end() == 0
    shown = process.said
    for command in (["list", "--state", "dead"], ["dlq", "list", "--json"], ["show", "fails"],
                    ["show", "unfound", "--json"], ["logs", "unfound"], ["worker", "list"], ["fsck"]):  # fmt: skip
        done = queuectl(spool, *command)
        shown += done.stdout + done.stderr
    assert "exit code 3" in shown
    assert CANARY not in shown
    assert [reason for _, reason in spool.rejected() if CANARY in reason] == []
    keeps = [path for path in Path(spool.root).rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert {path.name.removesuffix(".rejected") for path in keeps} == {
        "fails.json", "unfound.json", "bad.json", "worse.json"
    }  # fmt: skip
    assert {mode(path.parent) for path in keeps} == {0o700}


def test_row_97_what_jobs_and_names_hold_reaches_no_terminal_as_it_is(spool: Spool) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    spool.enqueue_many([{"argv": [f"/no/{evil}"], "id": "one", "max_retries": 0, evil: evil}])
    spool.enqueue(f"printf '%s' '{evil}'", id="two")
    with worker(spool, "--log-level", "debug") as process:
        drop(spool, f"{evil}.json", {"command": 5})
        until(lambda: spool.has_ended("one", "dead"), what="it has failed")
        completes(spool, "two")
        until(lambda: list(spool.rejected()), what="the bad file is set aside")
        assert process.end() == 0
    shown = [process.said]
    for command in (["list"], ["list", "--state", "dead"], ["dlq", "list"], ["show", "one"], ["show", "one", "--json"],
                    ["show", "two"], ["logs", "one"], ["logs", "two"], ["fsck"]):  # fmt: skip
        shown.append(on_a_terminal(spool, *command))
    assert any("owned" in text for text in shown)
    for text in shown:
        assert all(line.isprintable() for line in text.replace("\r", "").split("\n")), ascii(text)


def on_a_terminal(spool: Spool, *command: str) -> str:
    """What a command shows to a person."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "queuectl", "--spool", spool.root, *command]
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(NO_COLOR="1")):
        os.close(theirs)
        shown = b""
        try:
            while more := os.read(ours, 65536):
                shown += more
        except OSError:  # EIO: nobody has the terminal open any more
            pass
    os.close(ours)
    return shown.decode()


def test_row_100_no_mask_opens_what_is_made_and_no_directory_for_temporary_files_is_used(tmp_path: Path) -> None:
    """A stranger who owns $TMPDIR has nothing to hold on to there: drafts lie in the spool."""
    spool = tmp_path / "spool"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = os.umask(0)
    try:
        for line in (["enqueue", "--id", "one", "echo hi"], ["config", "set", "jitter", "full"],
                     ["worker", "start", "--until-empty"], ["enqueue", "--id", "two", "true"],
                     ["cancel", "two"], ["dlq", "retry", "two"]):  # fmt: skip
            done = queuectl(spool, *line, TMPDIR=str(temporary))
            assert done.returncode == 0, (line, done.stderr)
    finally:
        os.umask(before)
    assert list(temporary.iterdir()) == []
    loose = [path for path in [spool, *spool.rglob("*")]
             if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]  # fmt: skip
    assert loose == []
