"""Corners that a careful user runs into: each was wrong once. It is long because it is a list of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from queuectl.cli import main
from queuectl.cli.pick import rows
from queuectl.cli.show import reason
from queuectl.lease import ROLE_WORKER, Lease
from queuectl.spool import Spool
from queuectl.talk import size
from queuectl.tree import initialise
from tests.cli.conftest import COMMAND, LIMIT, Queuectl
from tests.filesystems.mounts import fill, loop
from tests.support import drop, environment, needs_root, queuectl, state_of, until, worker

BOM = b"\xef\xbb\xbf"
NOBODY = 65534


@needs_root
def test_a_file_that_only_its_owner_may_read_hides_no_other_job() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        initialise(f"{directory}/spool", group=NOBODY)
        spool = Spool(f"{directory}/spool")
        spool.enqueue("true", id="mine")
        os.chmod(drop(spool, "secret.json", {"command": "true"}), 0o600)
        as_nobody = (
            "import contextlib, io, os, sys\n"
            "from queuectl.cli import main\n"
            "with contextlib.redirect_stdout(io.StringIO()):\n"
            "    main(['list', '--json'])\n"  # what is imported for it may be out of another user's reach
            f"os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit(main(['list', '--json']))"
        )
        done = subprocess.run([sys.executable, "-c", as_nobody], env=environment(QUEUECTL_SPOOL=spool.root),
                              capture_output=True, text=True, check=False)  # fmt: skip
    rows = {row.get("id") or row["file"]: row.get("problem", "") for row in json.loads(done.stdout)}
    assert rows.keys() == {"mine", "secret.json"}
    assert "Permission denied" in rows["secret.json"]


def test_more_slots_than_can_be_are_refused(queue: Queuectl) -> None:
    result = queue("worker", "start", "--count", "10001")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("queuectl: --count may be 10000 at most")


def test_a_dropped_job_is_known_by_its_id_before_a_worker_has_adopted_it(queue: Queuectl) -> None:
    drop(queue.spool, "f.json", {"command": "true", "id": "asked"})
    assert "no worker has looked at it yet" in queue("show", "asked").out
    assert queue("wait", "asked", "--timeout", "0.2").code == 124
    assert queue.ok("cancel", "asked") == "asked cancelled\n"
    assert state_of(queue.spool, "asked") == "dead"


def test_a_batch_may_begin_with_a_byte_order_mark_and_is_no_list(queue: Queuectl) -> None:
    assert queue("enqueue", "--batch", "-", stdin=BOM + b'{"command": "true", "id": "b1"}\r\n').out == "b1\n"
    result = queue("enqueue", "--batch", "-", stdin=b'[{"command": "true"}]\n')
    assert (result.code, result.out) == (2, "")
    assert "a batch is one job a line, and no list" in result.err


def test_a_directory_in_pending_keeps_nobody_waiting(queue: Queuectl) -> None:
    Path(queue.spool.dir("pending"), "dir.json").mkdir()
    assert queue("wait", "--all", "--timeout", "20").code == 0
    assert "it is a directory, and no job" in queue("show", "dir").out


@pytest.mark.parametrize("words", [["--spool", "relative", "status"], ["init", "relative"]])
def test_a_working_directory_that_is_gone_is_told_as_that(queue: Queuectl, words: list[str]) -> None:
    gone = queue.home / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir ../gone; exec "$@"', "sh", *COMMAND, *words]
    done = subprocess.run(command, cwd=gone, env=queue.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("queuectl: The working directory is gone. Change to another one.\n")


def test_a_setting_is_set_although_a_variable_is_wrong(queue: Queuectl) -> None:
    result = queue("config", "set", "max-retries", "9", QUEUECTL_JITTER="bogus")
    assert result.code == 0
    assert "bogus" in result.err
    assert queue.ok("config", "get", "max-retries") == "9\n"


@pytest.mark.parametrize("words", [["show"], ["logs"], ["cancel"], ["wait", "--timeout", "0.1"], ["dlq", "retry"]])
def test_two_dashes_may_stand_before_an_id(queue: Queuectl, words: list[str]) -> None:
    queue.ok("enqueue", "--id", "job1", "true")
    result = queue(*words, "--", "job1")
    assert "not understood" not in result.err
    assert "no job '--'" not in result.err


def test_json_is_json_on_a_stream_that_is_not_utf8(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "job1", "echo é 🐍")
    for encoding in ("ascii", "latin-1"):
        (row,) = json.loads(queue("list", "--json", PYTHONIOENCODING=encoding).out)
        assert row["command"] == "echo é 🐍"


def test_a_strange_name_is_not_counted_as_hidden(queue: Queuectl) -> None:
    Path(queue.spool.dir("completed"), "a b.json").write_text("{}")
    assert queue("list", "--limit", "0") == (0, "", "")


def test_a_state_that_is_named_twice_counts_once(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "job1", "true")
    queue("cancel", "job1")
    assert queue("prune", "--state", "dead,dead", "--keep", "0", "--dry-run").out.count("job1") == 1


def test_a_broken_config_stops_nobody_from_looking(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "job1", "true")
    Path(queue.spool.config_path).write_text("max-retries = [")
    assert queue("show", "job1").code == 0
    status = queue("status")
    assert status.code == 0
    assert "config.toml is no TOML" in status.err
    assert "no other worker starts" in status.err
    found = queue("fsck", "--json")
    assert found.code == 1
    assert [one["kind"] for one in json.loads(found.out)] == ["settings"]
    Path(queue.spool.config_path).write_text("heartbeat = 100\n")
    assert "at least 4 heartbeats" in queue("status").err


def test_what_is_no_setting_can_be_taken_out_of_the_file(queue: Queuectl) -> None:
    path = Path(queue.spool.config_path)
    path.write_text("# mine\nmaxretries = 3\njitter = 'full'\nmax_retries = 'x'\n")
    queue.ok("config", "unset", "maxretries", "max-retries")
    assert path.read_text() == "# mine\njitter = 'full'\n"
    assert queue("config", "unset", "maxretries") == (
        4, "", "queuectl: There is no setting 'maxretries'. Did you mean max-retries?\n",
    )  # fmt: skip


def test_a_time_after_the_year_9999_is_refused(queue: Queuectl) -> None:
    result = queue("enqueue", "--in", "99999999d", "true")
    assert (result.code, result.out, result.err) == (2, "", "queuectl: --in 99999999d is after the year 9999.\n")


def test_a_canonical_name_whose_id_begins_with_a_dash_is_a_dropped_file(queue: Queuectl) -> None:
    drop(queue.spool, "20251122T091530.123456Z.p5.a0.-dash.json", {"command": "true"})
    queue.work()
    (row,) = queue.json("list")
    assert row["state"] == "completed"
    assert not row["id"].startswith("-")


def test_dead_jobs_that_are_not_shown_are_told_of_beside_rejected_files(queue: Queuectl) -> None:
    for job_id in ("a", "b"):
        queue.ok("enqueue", "--id", job_id, "true")
        queue("cancel", job_id)
    for n in range(3):
        drop(queue.spool, f"bad{n}.json", "no job")
    queue.work()
    assert "1 more are not shown" in queue("dlq", "list", "--limit", "1").err


def test_show_says_that_no_inodes_are_left(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.enqueue("true", id="x")
    monkeypatch.setattr(spool, "free", lambda: (1 << 40, 99))
    with Lease(spool, ROLE_WORKER, slots=1):
        (row,) = rows(spool, spool.entries(["pending"]))
        assert reason(spool, row) == "only 99 inodes are free, and no job is started below 100"


# -- what people type, and programs read -----------------------------------------------------------------------------


def test_a_slip_in_a_members_name_is_told_and_the_job_is_kept(queue: Queuectl) -> None:
    result = queue("enqueue", json.dumps({"command": "true", "id": "a", "priorty": 9, "ticket": 7}))
    assert result == (0, "a\n", "queuectl: 'priorty' means nothing to queuectl, and is kept with the job. Did you mean "
                                "priority?\n")  # fmt: skip
    assert queue.json("show", "a")["ticket"] == 7


def test_a_variable_is_taken_from_here_by_its_name(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "--env", "VENV", "--env", "B=2", 'echo "$VENV $B"', VENV="/opt/a=b")
    queue.work()
    assert queue.ok("logs", "--raw", "a") == "/opt/a=b 2\n"


def test_a_pretty_job_is_no_batch_and_that_is_said(queue: Queuectl) -> None:
    result = queue("enqueue", "--batch", "-", stdin='{\n  "command": "true"\n}\n')
    assert result.code == 2
    assert "line 1: a batch is one job a line, and this one goes on in the next" in result.err


def test_a_program_that_lists_gets_all_and_a_person_a_screenful(queue: Queuectl) -> None:
    queue.spool.enqueue_many([{"command": "true"}] * 60)
    assert len(queue.json("list")) == 60
    assert len(json.loads(queue("list", "--json", "--limit", "7").out)) == 7
    assert len(queue("list").out.splitlines()) == 51
    queue.ok("cancel", *(entry.id for entry in queue.spool.entries(["pending"])))
    assert len(queue.json("dlq", "list")) == 60


def test_what_was_set_aside_is_counted_and_can_be_asked_for_by_name(queue: Queuectl) -> None:
    assert "Set aside" not in queue.ok("status")
    drop(queue.spool, "half.json", b'{"command": ')
    queue.spool.reject("pending", "half.json", "not JSON")
    assert "Set aside       1 (is no job: `queuectl dlq list`)\n" in queue.ok("status")
    assert queue.json("status")["rejected"] == 1
    assert queue("dlq", "retry", "half") == (
        1, "",
        "queuectl: dead/half.json.rejected was set aside as no job. `queuectl show half` says why, and what to do.\n",
    )  # fmt: skip
    assert "it is no job: not JSON" in queue("show", "half.json").out


def test_one_dead_letter_can_be_purged_and_its_id_is_free_again(queue: Queuectl) -> None:
    for job_id in ("a", "b"):
        queue.spool.enqueue("echo kept; false", id=job_id, max_retries=0)
    queue.work()
    queue.spool.enqueue("true", id="waits")
    drop(queue.spool, "half.json", b"{")
    queue.spool.reject("pending", "half.json", "not JSON")
    result = queue("dlq", "purge", "a", "half.json", "waits", "nowhere")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "queuectl: waits is not dead. `queuectl show waits` says what it is.",
        "queuectl: There is no job 'nowhere' in this spool. See `queuectl list`.",
        "queuectl: 2 dead letters were removed.",
    ]
    assert os.listdir(queue.spool.dir("dead")) == ["b.json"]
    assert sorted(os.listdir(queue.spool.dir("logs"))) == ["b.1.log"]
    assert queue.ok("enqueue", "--id", "a", "true") == "a\n"


def test_an_empty_list_of_dead_letters_does_not_mean_all(queue: Queuectl) -> None:
    queue.spool.enqueue("false", id="a", max_retries=0)
    queue.work()
    result = queue("dlq", "purge", "--")
    assert (result.code, result.err) == (2, "queuectl: After -- come the ids of what is to be removed.\n")
    assert os.listdir(queue.spool.dir("dead")) == ["a.json"]


def test_a_file_that_no_worker_takes_is_found(queue: Queuectl) -> None:
    for name in ("job.txt", "half.json.part", ".hidden", "JOB.JSON"):
        Path(queue.spool.dir("pending") + name).write_text("{}")
    found = json.loads(queue("fsck", "--json").out)
    assert sorted(one["path"].rpartition("/")[2] for one in found) == ["JOB.JSON", "job.txt"]
    assert {one["what"] for one in found} == {"workers take only names that end in .json"}
    queue("fsck", "--repair")
    assert len(os.listdir(queue.spool.dir("pending"))) == 4


def test_who_waits_is_told_that_nobody_works(queue: Queuectl) -> None:
    queue.spool.enqueue("true", id="a")
    shown = queue.on_terminal("wait", "--timeout", "0.05", "a").out
    assert "No worker is running; this waits until one is." in shown


def test_a_worker_that_was_killed_is_nobody_who_works(queue: Queuectl) -> None:
    with worker(queue.spool) as process:
        assert "No worker" not in queue.on_terminal("enqueue", "true").out
        process.kill()
    assert "No worker is running; the job waits." in queue.on_terminal("enqueue", "true").out


def test_a_detached_worker_that_could_not_even_say_why_it_ended(
    queue: Queuectl, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk, where what it says is lost."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert main(["--spool", queue.spool.root, "worker", "start", "--detach"]) == 1
    assert re.fullmatch(
        rf"queuectl: The worker has ended\. Its log, {queue.spool.root}/logs/worker-\S+\.log, is empty\. `queuectl"
        r" worker start` without --detach shows what it says\.\n",
        capfd.readouterr().err,
    )


def test_ctrl_c_says_what_the_worker_waits_for_also_when_it_is_told_to_say_little(queue: Queuectl) -> None:
    process = queue.start("worker", "start", "--log-level", "warning")
    queue.spool.enqueue(f"touch {queue.home}/runs; exec sleep 600", id="long")
    until((queue.home / "runs").exists, LIMIT)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    until(lambda: "SIGINT: waiting for 1 running job; once more stops now" in process.stderr.readline(), LIMIT)  # type: ignore[union-attr]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    assert (process.returncode, state_of(queue.spool, "long")) == (0, "pending")


def test_ctrl_c_while_workers_stop_says_that_they_still_will(queue: Queuectl) -> None:
    worker = queue.start("worker", "start")
    queue.spool.enqueue(f"touch {queue.home}/runs; exec sleep 600", id="long")
    until((queue.home / "runs").exists, LIMIT)
    stopper = queue.start("worker", "stop")
    assert stopper.stderr is not None
    until(lambda: "Waiting for worker" in stopper.stderr.readline(), LIMIT)  # type: ignore[union-attr]
    stopper.send_signal(signal.SIGINT)
    out, err = stopper.communicate(timeout=LIMIT)
    assert (stopper.returncode, out) == (130, "")
    assert err == "queuectl: They have been told to stop, and will. `queuectl worker list` shows who still runs.\n"
    queue.ok("cancel", "long")
    worker.communicate(timeout=LIMIT)
    assert worker.returncode == 0


def test_a_cancelled_jobs_id_is_free_for_a_job_that_runs(queue: Queuectl) -> None:
    """The worker had seen the request, and buried whatever came under that id for up to 30 s."""
    process = queue.start("worker", "start")
    queue.ok("enqueue", "--id", "x", "exec sleep 600")
    until(lambda: state_of(queue.spool, "x") == "processing", LIMIT)
    assert queue.ok("cancel", "x") == "x cancelled\n"
    assert queue("dlq", "purge", "x").code == 0
    queue.ok("enqueue", "--id", "x", "true")
    assert queue("wait", "x", "--timeout", "30s").code == 0
    queue.spool.enqueue("exec sleep 600", id="y")
    until(lambda: state_of(queue.spool, "y") == "processing", LIMIT)
    queue.spool.put_request("y.cancel")  # by somebody who does not wait for the end
    until(lambda: state_of(queue.spool, "y") == "dead", LIMIT)
    until(lambda: not queue.spool.has_request("y.cancel"), LIMIT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)


def test_sizes_are_said_in_a_unit_that_shows_them() -> None:
    assert [size(n) for n in (0, 1, 10_240, 64 << 20, 1 << 50)] == [
        "0 bytes", "1 byte", "10 KiB", "64 MiB", "1,073,741,824 MiB",
    ]  # fmt: skip


def test_the_id_of_a_job_that_was_moved_back_by_hand_is_its_own_until_it_is_adopted(queue: Queuectl) -> None:
    """`mv dead/ID.json pending/` with no worker alive: its id was free for anybody, and the job was set aside."""
    queue.ok("enqueue", "--id", "a", "--max-retries", "0", "false")
    queue.work()
    os.rename(queue.spool.dir("dead") + "a.json", queue.spool.dir("pending") + "a.json")
    assert queue("fsck") == (0, "", "queuectl: Nothing is wrong.\n")
    assert "a job named a exists already" in queue("enqueue", "--id", "a", "true").err
    queue.work()
    assert len(queue.record("a")["history"]) == 2


@needs_root
def test_a_job_that_has_filled_the_disk_can_be_cancelled(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with loop(disk, "ext4", 16):
        spool = Spool(disk / "spool", durability="none")
        with worker(spool, "--min-free", "0"):
            spool.enqueue("trap '' PIPE; while :; do head -c 100000 /dev/zero; sleep 0.01; done", id="hog")
            until(lambda: os.statvfs(disk).f_bavail == 0, 60, what="the disk is full")
            fill(disk)
            done = queuectl(spool, "cancel", "hog")
            assert (done.returncode, done.stdout) == (0, "hog cancelled\n"), done.stderr


def test_an_empty_id_file_is_told_of_and_can_be_mended(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "true")
    (queue.home / "spool" / ".id").write_text("")
    result = queue("status")
    assert result.code == 3
    assert re.search(r"\.id is empty: .* Stop the workers, remove it, and run `queuectl init [^`]+`: the jobs stay\.",
                     result.err)  # fmt: skip
    (queue.home / "spool" / ".id").unlink()
    queue.ok("init", str(queue.home / "spool"))
    assert queue.state("a") == "pending"


def test_settings_that_contradict_each_other_are_told_of_with_what_to_set(queue: Queuectl) -> None:
    Path(queue.spool.config_path).write_text("heartbeat = '1m'\n")
    result = queue("config", "list")
    assert result.code == 0
    assert result.err.endswith("Set stale-after to 240 or more, or heartbeat lower.\n")


def test_following_a_log_ends_with_an_error_when_the_spool_is_gone(queue: Queuectl) -> None:
    with worker(queue.spool):
        queue.ok("enqueue", "--id", "a", "echo hi; sleep 1000")
        process = queue.start("logs", "--follow", "a")
        assert process.stdout is not None
        until(lambda: "hi\n" in process.stdout.readline(), what="it follows")  # type: ignore[union-attr]
        os.rename(queue.spool.root, queue.spool.root + ".away")
        _, err = process.communicate(timeout=LIMIT)
        os.rename(queue.spool.root + ".away", queue.spool.root)
        assert process.returncode == 3
        assert queue.spool.root in err
        assert queue("logs", "a").code == 0
        queue.ok("worker", "stop", "--now")


def test_a_running_job_has_printed_nothing_yet(queue: Queuectl) -> None:
    with worker(queue.spool):
        queue.ok("enqueue", "--id", "a", "sleep 1000")
        until(lambda: Path(queue.spool.dir("logs"), "a.1.log").exists(), what="it runs")
        assert queue("logs", "a").err == "queuectl: Attempt 1 of a has printed nothing yet.\n"
        queue.ok("worker", "stop", "--now")


def test_ctrl_c_in_a_batch_says_what_was_accepted(queue: Queuectl) -> None:
    process = queue.start("enqueue", "--batch", "-")
    assert process.stdin is not None
    process.stdin.write("true\ntrue\n")
    process.stdin.flush()
    until(lambda: queue.json("status")["pending"] == 2, what="they are accepted")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (
        130, "queuectl: 2 jobs were accepted, up to line 2; a part of what follows may have been. Look before you"
        " enqueue the rest.\n",
    )  # fmt: skip


def test_ctrl_c_while_a_worker_is_started_in_the_background_leaves_none_behind(queue: Queuectl) -> None:
    process = queue.start("worker", "start", "--detach")
    until(lambda: any(name.startswith("worker-") for name in os.listdir(queue.spool.dir("logs"))), what="it is started")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)
    if process.returncode == 130:
        until(lambda: queue.json("worker", "list") == [], what="it has ended")
    else:
        assert queue("worker", "stop").code == 0, "it was there before"


def test_jobs_do_not_inherit_the_locale_that_python_chose_for_itself(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "echo ${LC_CTYPE-none}; echo $MINE")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": environment()["PYTHONPATH"], "HOME": "/", "MINE": "x"}
    command = [*COMMAND, "--spool", queue.spool.root, "worker", "start"]
    subprocess.run([*command, "--until-empty"], env=environ, check=True, capture_output=True, timeout=LIMIT)
    assert queue("logs", "--raw", "a").out == "none\nx\n"
    queue.ok("enqueue", "--id", "b", "echo ${LC_CTYPE-none}")
    subprocess.run([*command, "--detach"], env=environ, check=True, capture_output=True, timeout=LIMIT)
    queue.ok("wait", "b")
    queue.ok("worker", "stop")
    assert queue("logs", "--raw", "b").out == "none\n"


def test_an_empty_directory_is_no_directory(queue: Queuectl) -> None:
    """An unset variable in a script."""
    assert queue("enqueue", "--cwd", "", "true") == (
        2, "", "queuectl: --cwd is empty; leave it out to run in the directory where you are.\n",
    )  # fmt: skip


def test_the_log_of_a_job_whose_record_is_broken_is_shown(queue: Queuectl) -> None:
    queue.ok("enqueue", "--id", "a", "echo hi")
    queue.ok("enqueue", "--id", "b", "true")
    queue.work()
    for job_id in ("a", "b"):
        Path(queue.spool.dir("completed"), f"{job_id}.json").write_text("garbage")
    assert queue("logs", "--raw", "a").out == "hi\n"
    assert queue("logs", "--raw", "b").err == (
        "queuectl: b is no job that can be read, and has no log. `queuectl show b` says why.\n"
    )


@needs_root
def test_a_group_that_the_user_is_not_in_is_told_of_before_anything_is_made() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        code = "import os\nfrom queuectl.cli import main\nfrom queuectl.cli import setup, usage, render\nimport grp\n"
        code += f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        code += f"raise SystemExit(main(['init', '{place}/spool', '--group', '0']))"
        done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (
            2, "queuectl: You are not in the group '0', and only its members may give it a directory.\n",
        )  # fmt: skip
        assert os.listdir(place) == []
