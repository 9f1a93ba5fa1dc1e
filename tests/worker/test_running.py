"""What one attempt is: its environment, output, end; and what is left of it (nothing). Real workers, real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from queuectl.core.job import check
from queuectl.spool import Spool
from tests.support import body_of, environment, listing, needs_root, queuectl, state_of, until, worker


def ended(spool: Spool, *ids: str, limit: float = 30.0) -> None:
    until(lambda: all(spool.has_ended(i, "completed") or spool.has_ended(i, "dead") for i in ids), limit,
          what=f"{ids} have ended")  # fmt: skip


def log_of(spool: Spool, job_id: str, attempt: int = 1) -> str:
    return Path(spool.root, "logs", f"{job_id}.{attempt}.log").read_text()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_job_sees_who_it_is_its_own_variables_and_its_directory(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with worker(spool):
        spool.enqueue("env; pwd", id="one", env={"COLOUR": "green", "HOME": "/nowhere"}, cwd=str(tmp_path / "here"))
        ended(spool, "one")
    lines = log_of(spool, "one").splitlines()
    for expected in (
        "QUEUECTL_JOB_ID=one", "QUEUECTL_ATTEMPT=1", f"QUEUECTL_SPOOL={spool.root}", "COLOUR=green", "HOME=/nowhere",
        str(tmp_path / "here"),
    ):  # fmt: skip
        assert expected in lines
    claim = next(line for line in lines if line.startswith("QUEUECTL_CLAIM="))
    assert body_of(spool, "one")["claim"] == claim.partition("=")[2]


def test_a_job_cannot_change_by_what_its_processes_are_found(spool: Spool) -> None:
    """R8: the next worker looks for them if this one dies."""
    spool.enqueue("echo $QUEUECTL_SPOOL $QUEUECTL_JOB_ID", id="one",
                  env={"QUEUECTL_SPOOL": "/elsewhere", "QUEUECTL_JOB_ID": "other"})  # fmt: skip
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert log_of(spool, "one") == f"{spool.root} one\n"


def test_a_worker_whose_directory_is_removed_goes_on(spool: Spool, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    command = [sys.executable, "-m", "queuectl", "--spool", spool.root, "worker", "start", "--until-empty"]
    spool.enqueue(f"rmdir {start}", id="removes", priority=1)
    spool.enqueue("pwd", id="one", cwd=str(tmp_path))
    spool.enqueue("echo ran", id="two")
    assert subprocess.run(command, cwd=start, env=environment(), capture_output=True, check=False).returncode == 0
    assert log_of(spool, "one") == f"{tmp_path}\n"
    assert log_of(spool, "two").endswith("ran\n"), "the shell may complain that it is nowhere"


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_a_worker_that_may_not_come_back_to_its_directory_runs_jobs_all_the_same(spool: Spool, tmp_path: Path) -> None:
    """As when root's directory is where `su nobody -c 'queuectl worker start'` is typed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    spool.enqueue("pwd", id="one", cwd=str(tmp_path), priority=1)
    spool.enqueue("pwd", id="two")
    without = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", sys.executable, "-m", "queuectl",
               "--spool", spool.root, "worker", "start", "--until-empty"]  # fmt: skip
    done = subprocess.run(command, cwd=closed, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: the directory it was started in may not be entered; jobs without a cwd run in /" in done.stderr
    assert (log_of(spool, "one"), log_of(spool, "two")) == (f"{tmp_path}\n", "/\n")


def test_argv_runs_without_a_shell(spool: Spool) -> None:
    with worker(spool):
        spool.enqueue(argv=["printf", "%s|", "a b", "$HOME", "*"], id="one")
        ended(spool, "one")
    assert log_of(spool, "one") == "a b|$HOME|*|"


@pytest.mark.parametrize(
    ("job", "state", "error"),
    [
        ({"command": "exit 3"}, "dead", "exit code 3"),
        ({"command": "no-such-command"}, "dead", "exit code 127 (command not found)"),
        ({"argv": ["no-such-program"]}, "dead", "exit code 127: no-such-program: command not "
                                                "found"),
        ({"argv": ["/etc/passwd"]}, "dead", "exit code 126: /etc/passwd: Permission "
                                            "denied"),
        ({"command": "true", "cwd": "/no/such/place"}, "dead", "exit code 127: the working "
                                                               "directory /no/such/place: No such file or directory"),
        ({"command": "kill -TERM $$"}, "dead", "killed by signal 15: SIGTERM"),
        ({"command": "kill -9 $$"}, "dead", "killed by signal 9: SIGKILL"),
        ({"command": "sleep 60", "timeout": 0.2}, "dead", "timeout: after 0.2 s"),
        ({"command": "exit 100", "max_retries": 9}, "dead", "exit code 100"),
        ({"command": "true", "env": {"BIG": "x" * 140_000}, "max_retries": 9}, "dead", "could not be started: the "
         "command and its environment are longer than the kernel allows"),
    ],
)  # fmt: skip
def test_how_it_ended_is_said_in_words(spool: Spool, job: dict[str, object], state: str, error: str) -> None:
    spool.enqueue_many([{"max_retries": 0, "id": "one", **job}])
    with worker(spool):
        ended(spool, "one")
    assert state_of(spool, "one") == state
    body = body_of(spool, "one")
    assert (body["last_error"], len(body["history"])) == (error, 1)


def test_temporary_failures_are_retried_while_retries_are_left(spool: Spool) -> None:
    spool.enqueue("exit 75", id="a", max_retries=2, backoff_base=0)
    spool.enqueue("exit 111", id="b", max_retries=2, backoff_base=0)
    with worker(spool):
        ended(spool, "a", "b")
    assert [len(body_of(spool, job_id)["history"]) for job_id in "ab"] == [3, 3]


def test_output_is_kept_for_each_attempt_and_never_mixed(spool: Spool) -> None:
    spool.enqueue('echo "attempt $QUEUECTL_ATTEMPT"; [ $QUEUECTL_ATTEMPT = 3 ]', id="thrice", backoff_base=0)
    others = spool.enqueue_many([{"command": f"for i in 1 2 3; do echo {n}; done >&2"} for n in range(40)])
    quiet = spool.enqueue_many([{"command": "true"} for _ in range(20)])
    with worker(spool, "--count", "4") as process:
        ended(spool, "thrice", *others, *quiet)
        assert process.end() == 0
    assert [log_of(spool, "thrice", n) for n in (1, 2, 3)] == [f"attempt {n}\n" for n in (1, 2, 3)]
    assert [log_of(spool, job_id) for job_id in others] == [f"{n}\n" * 3 for n in range(40)]
    assert len(listing(spool, "logs")) == 43, "a job that printed nothing leaves no log"


def test_the_job_reads_nothing(spool: Spool) -> None:
    with worker(spool):
        spool.enqueue("cat; echo done", id="one")
        ended(spool, "one")
    assert log_of(spool, "one") == "done\n"


def test_no_descriptor_of_the_worker_passes_to_a_job(spool: Spool) -> None:
    with worker(spool):
        spool.enqueue("ls -l /proc/self/fd | sed 1d | grep -v /proc/ | wc -l", id="one")
        ended(spool, "one")
    assert log_of(spool, "one").strip() == "3"


@pytest.mark.parametrize(
    "left",
    ["sleep TIME &", "setsid sleep TIME &", "(setsid sh -c 'sleep TIME & sleep TIME' &)",
     "env -i setsid sh -c '/bin/sleep TIME & exec /bin/sleep TIME' > /dev/null 2>&1 &"],
)  # fmt: skip
def test_what_a_job_leaves_behind_ends_with_it(spool: Spool, left: str, tmp_path: Path) -> None:
    time = f"1000.{os.getpid()}{abs(hash(left)) % 10**6}"  # tells these sleeps from all others
    go = tmp_path / "go"
    spool.enqueue(f"{left.replace('TIME', time)}\nuntil [ -e {go} ]; do sleep 0.01; done", id="one")
    with worker(spool):
        until(lambda: sleeping(time), what="what the job leaves behind is there")
        go.touch()
        ended(spool, "one")
        assert sleeping(time) == [], "when a job has ended, nothing of it is left"
    assert state_of(spool, "one") == "completed"


def sleeping(time: str) -> list[int]:
    """The processes that sleep for so long."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sleep") and time.encode() in words and alive(pid):
            found.append(pid)
    return found


def test_a_timeout_holds_while_the_spool_is_away_and_the_worker_sleeps(spool: Spool, tmp_path: Path) -> None:
    with worker(spool) as process:
        command = f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 1000"
        spool.enqueue(command, id="one", timeout=1, max_retries=0)
        until((tmp_path / "pid").exists, what="the job runs")
        os.rename(spool.root, tmp_path / "away")
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not alive(pid), what="the job ends at its timeout")
        used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        assert sum(map(int, used)) < os.sysconf("SC_CLK_TCK"), "seconds of CPU: it waits, and doesn't spin"
        os.rename(tmp_path / "away", spool.root)
        ended(spool, "one")
    assert "timeout" in str(body_of(spool, "one")["last_error"])


@pytest.mark.parametrize(
    "stubborn",
    ["trap '' TERM; while :; do sleep 1; done", "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000' & wait; wait",
     "kill -STOP $$", "trap '' TERM; sh -c 'kill -STOP $$' & wait; wait"],
)  # fmt: skip
def test_a_job_that_will_not_end_is_killed_after_its_timeout(spool: Spool, stubborn: str) -> None:
    spool.enqueue(stubborn, id="one", timeout=0.3, max_retries=0)
    with worker(spool):
        ended(spool, "one")
        assert body_of(spool, "one")["last_error"] == "timeout: after 0.3 s"
        marked = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if carries(pid, spool)]
        until(lambda: not [pid for pid in marked if alive(pid)], what="all its processes are gone")


def carries(pid: int, spool: Spool) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        return f"QUEUECTL_SPOOL={spool.root}\0".encode() in environ and b"QUEUECTL_CLAIM=" in environ
    except OSError:
        return False


def test_the_shell_of_a_job_is_killed_from_outside_and_its_children_go_too(spool: Spool, tmp_path: Path) -> None:
    spool.enqueue(f"sleep 1000 & echo $$ $! > {tmp_path}/pids.tmp; mv {tmp_path}/pids.tmp {tmp_path}/pids; wait",
                  id="one", max_retries=0)  # fmt: skip
    with worker(spool):
        shell, child = map(int, until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text()).split())
        os.kill(shell, signal.SIGKILL)
        ended(spool, "one")
        until(lambda: not alive(child), what="the child is gone")
    assert body_of(spool, "one")["history"][0]["signal"] == 9


def test_priorities_then_age_decide_who_is_first(spool: Spool, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for priority in (0, -5, 10, 0, 999, -999):
        spool.enqueue(f"echo {priority} >> {order}", priority=priority)
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert order.read_text().split() == ["999", "10", "0", "0", "-5", "-999"]


def test_a_scheduled_job_starts_on_time_and_not_before(spool: Spool) -> None:
    with worker(spool):
        printed = queuectl(spool, "enqueue", "--in", "1s", "--id", "later", "true")
        assert printed.stdout == "later\n"
        ended(spool, "later")
    body = body_of(spool, "later")
    from datetime import datetime

    late = datetime.fromisoformat(body["history"][0]["started_at"]) - datetime.fromisoformat(body["run_at"])
    assert 0 <= late.total_seconds() < 2


def test_the_delays_grow_as_base_to_the_power_of_attempts(spool: Spool) -> None:
    spool.enqueue("false", id="one", max_retries=2, backoff_base=0.6)
    with worker(spool):
        ended(spool, "one")
    from datetime import datetime

    history = json.loads(Path(spool.root, "dead", "one.json").read_text())["history"]
    for attempt in (1, 2):
        ended_at = datetime.fromisoformat(history[attempt - 1]["finished_at"])
        pause = (datetime.fromisoformat(history[attempt]["started_at"]) - ended_at).total_seconds()
        assert 0.6**attempt - 0.001 <= pause < 0.6**attempt + 2


def test_what_was_claimed_ahead_of_the_slots_does_not_wait_for_a_long_job(spool: Spool, tmp_path: Path) -> None:
    """Short jobs are claimed ahead; behind a long one they would wait though others are free, and no cancel or job of
    a higher priority would come before them."""
    gate = tmp_path / "gate"
    short = [{"command": "true"}] * 100
    long = {"command": f"until [ -e {gate} ]; do sleep 0.02; done", "id": "long"}
    spool.enqueue_many([check(job) for job in (*short, long, *[{"command": "true"}] * 20)])
    # A look at the log's size would wake it.
    with worker(spool, "--max-log", "none", "--durability", "none") as process:
        until(lambda: len(listing(spool, "completed")) == 100, what="the short jobs before it are done")
        until(lambda: len(listing(spool, "processing")) == 1, 5, what="what was claimed ahead is given back")
        assert state_of(spool, "long") == "processing"
        waiting = listing(spool, "pending")
        assert len(waiting) == 20
        assert {name.split(".")[3] for name in waiting} == {"a0"}, "no attempt was counted"
        with worker(spool) as other:
            until(lambda: len(listing(spool, "completed")) == 120, what="somebody else runs them")
            assert other.end() == 0
        gate.touch()
        assert process.end() == 0
    assert len(listing(spool, "completed")) == 121
