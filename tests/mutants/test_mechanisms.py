"""One quick test for each protective mechanism; table.py says which patch each of them must notice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl.actions import requeue
from queuectl.core import job as jobs
from queuectl.core.backoff import Policy
from queuectl.core.names import Record, is_id
from queuectl.core.states import COMPLETED, DEAD, PENDING, PROCESSING
from queuectl.core.times import SECOND
from queuectl.core.window import Window
from queuectl.errors import BadJob, IdTaken, SpoolError
from queuectl.lease import ROLE_WORKER, Census, Lease
from queuectl.recover import Recovery, release, settle_now
from queuectl.runner import Runner
from queuectl.spool import Entry, Settlement, Spool
from queuectl.wakeup import Wakeup
from tests.support import listing, places, until, worker

NOW = 1_900_000_000_000_000_000


class Watched:
    """A file system that notes its calls, and asks `after_rename` what to do after each rename."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.after_rename: Callable[[str, str], None] = lambda source, target: None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)
        self.calls.append(f"rename to {target}")
        self.after_rename(source, target)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)
        self.calls.append("fsync " + os.readlink(f"/proc/self/fd/{fd}"))


@pytest.fixture
def fs() -> Watched:
    return Watched()


@pytest.fixture
def spool(tmp_path: Path, fs: Watched) -> Spool:
    return Spool(tmp_path / "spool", durability="none", fs=fs)


def waiting(spool: Spool, job_id: str = "x") -> Entry:
    spool.enqueue("true", id=job_id)
    entry = spool.find(job_id)
    assert entry is not None
    return entry


def completed(spool: Spool, claim: Any) -> Settlement:
    job = spool.read_claim(claim)
    assert job is not None
    return Settlement(Record(claim, COMPLETED), jobs.settled(job, claim, claim.attempts, NOW))


def recover(spool: Spool) -> list[str]:
    said: list[str] = []
    with Lease(spool, ROLE_WORKER) as lease:
        census = Census(spool, 5.0, lease.worker)
        recovery = Recovery(spool, lease, lambda: Policy(backoff_max=0.0), lambda _, text: said.append(text))
        recovery.run(lambda: census.look(time.monotonic()), NOW)
    return said


def test_an_accepted_job_is_synced_and_so_is_its_name(spool: Spool, fs: Watched) -> None:
    spool.set_durability("fsync")
    fs.calls.clear()
    spool.enqueue("true")
    synced, renamed, named = fs.calls
    assert synced.startswith("fsync ")
    assert synced.endswith("=draft")
    assert renamed.startswith("rename to " + spool.dir(PENDING))
    assert named + "/" == "fsync " + spool.dir(PENDING)


def test_a_claim_has_one_winner(spool: Spool) -> None:
    entry = waiting(spool)
    assert spool.claim(entry, "host-1-aaaa", 1) is not None
    assert spool.claim(entry, "host-2-bbbb", 1) is None


def test_a_lost_claim_cannot_be_settled(spool: Spool) -> None:
    """R6: the late worker's result is dropped, and the job stays where its new owner has it."""
    claim = spool.claim(waiting(spool), "host-1-aaaa", 1)
    assert claim is not None
    late = completed(spool, claim)
    assert spool.take_over(claim, "host-2-bbbb", 1) is not None
    spool.settle([late], [])
    assert late.step == Settlement.REFUSED
    assert [place.partition("@")[2] for place in places(spool, "x")] == ["host-2-bbbb.1.json"]


def test_a_rename_that_was_done_and_denied_is_seen_through(spool: Spool, fs: Watched) -> None:
    """R3"""
    entry = waiting(spool)

    def deny(source: str, target: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "the reply was lost", source)

    fs.after_rename = deny
    claim = spool.claim(entry, "host-1-aaaa", 1)
    assert claim is not None
    settlement = completed(spool, claim)
    spool.settle([settlement], [])
    assert (settlement.step, places(spool, "x")) == (Settlement.PUBLISHED, ["completed/x.json"])


def test_a_directory_that_is_gone_takes_no_outcome_with_it(spool: Spool) -> None:
    claim = spool.claim(waiting(spool), "host-1-aaaa", 1)
    assert claim is not None
    os.rmdir(spool.dir(COMPLETED))
    spool.settle([completed(spool, claim)], [])
    assert places(spool, "x") == ["completed/x.json"]


def test_a_linked_file_wakes_the_worker(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "file").touch()
    wakeup = Wakeup({"drop": str(tmp_path / "drop")})
    try:
        assert wakeup.start(), wakeup.problem
        wakeup.take()
        os.link(tmp_path / "file", tmp_path / "drop" / "x.json")
        hints = until(lambda: wakeup.take()[0], limit=2.0, what="inotify tells of a link")
        assert hints[0].name == "x.json"
    finally:
        wakeup.stop()


def test_a_released_job_gets_a_name_that_never_was(spool: Spool) -> None:
    entry = waiting(spool)
    claim = spool.claim(entry, "host-1-aaaa", 1)
    assert claim is not None
    job = spool.read_claim(claim)
    assert job is not None
    assert settle_now(spool, release(claim, job, NOW))
    (name,) = listing(spool, PENDING)
    assert name > entry.name, "a rename that is repeated late would find it"


def test_a_dead_workers_record_stands_until_its_claim_is_gone(spool: Spool, fs: Watched) -> None:
    claim = spool.claim(waiting(spool), "host-1-aaaa", 1)
    assert claim is not None
    settlement = completed(spool, claim)
    record = settlement.record.name
    with open(spool.dir(".tmp") + record, "xb") as file:
        file.write(settlement.data)
    stood: list[bool] = []
    fs.after_rename = lambda source, target: stood.append(
        not listing(spool, PROCESSING) or record in listing(spool, ".tmp")
    )
    recover(spool)
    assert places(spool, "x") == ["completed/x.json"]
    assert all(stood), "a second recoverer would not know any more that the job had ended"


def test_a_record_of_another_attempt_is_not_believed(spool: Spool) -> None:
    """After a power cut a recycled file may hold what it held before."""
    entry = waiting(spool)
    claim = spool.claim(entry, "host-1-aaaa", 1)
    assert claim is not None
    other = claim._replace(attempts=claim.attempts + 1)
    data = completed(spool, claim).data.replace(claim.key.encode(), other.key.encode())
    with open(spool.dir(".tmp") + Record(claim, COMPLETED).name, "xb") as file:
        file.write(data)
    assert spool.read_record(Record(claim, COMPLETED)) is None


def test_orphans_are_dead_before_their_job_goes_back(spool: Spool) -> None:
    claim = spool.claim(waiting(spool), "host-1-aaaa", 1)
    assert claim is not None
    mark = {"QUEUECTL_CLAIM": claim.key, "QUEUECTL_SPOOL": spool.root}
    orphan = subprocess.Popen(["sleep", "60"], env={**os.environ, **mark}, start_new_session=True)
    try:
        recover(spool)
        assert orphan.poll() is not None
        assert listing(spool, PROCESSING) == []
    finally:
        orphan.kill()
        orphan.wait()


def test_a_live_process_id_is_no_lease(spool: Spool) -> None:
    """Row 14: the number of a dead worker's process may be another's by now. The lock decides."""
    lease = Lease(spool, ROLE_WORKER)
    os.close(lease._fd)  # as the kernel does when a worker is killed; the process with its number lives on
    (info,) = Census(spool, 5.0).look(0.0)
    assert (info.pid, info.alive) == (os.getpid(), False)


def test_a_lease_that_others_cannot_see_is_lost(spool: Spool) -> None:
    """If workers/ is moved away, its owner's claims are nobody's to all the others."""
    with Lease(spool, ROLE_WORKER) as lease:
        assert lease.renew()
        os.rename(spool.dir("workers"), spool.root + "/away")
        os.mkdir(spool.dir("workers"), 0o700)
        assert not lease.renew()


def test_a_child_does_not_hold_its_workers_lease(spool: Spool) -> None:
    lease = Lease(spool, ROLE_WORKER)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        os.close(lease._fd)
        (info,) = Census(spool, 5.0).look(0.0)
        assert not info.alive
        assert child.poll() is None


def drop(spool: Spool, content: str = '{"command": "true"}') -> str:
    path = spool.dir(PENDING) + "drop.json"
    Path(path).write_text(content)
    return path


def test_a_symbolic_link_is_no_job(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"command": "true"}')
    os.symlink(tmp_path / "secret", spool.dir(PENDING) + "drop.json")
    with pytest.raises(BadJob, match="symbolic link"):
        spool.adopt("drop.json", NOW)


def test_a_file_with_two_names_is_no_job(spool: Spool, tmp_path: Path) -> None:
    os.link(drop(spool), tmp_path / "other")
    with pytest.raises(BadJob, match="hard links"):
        spool.adopt("drop.json", NOW)


def test_a_member_that_is_given_twice_is_refused(spool: Spool) -> None:
    drop(spool, '{"command": "true", "command": "false"}')
    with pytest.raises(BadJob, match="twice"):
        spool.adopt("drop.json", NOW)


def test_an_id_is_only_an_id_from_end_to_end() -> None:
    assert [is_id(text) for text in ("x", "x\n", "../x", "x/", "-x")] == [True, False, False, False, False]


def test_an_id_is_accepted_once(spool: Spool) -> None:
    spool.enqueue("true", id="x")
    with pytest.raises(IdTaken):
        spool.enqueue("true", id="x")
    assert len(listing(spool, PENDING)) == 1


def test_a_job_that_ignores_sigterm_is_killed(spool: Spool) -> None:
    spool.enqueue("trap '' TERM; echo ready; while :; do sleep 0.05; done", id="x")
    entry = spool.find("x")
    assert entry is not None
    claim = spool.claim(entry, "host-1-aaaa", 1)
    assert claim is not None
    job = spool.read_claim(claim)
    assert job is not None
    runner = Runner(spool, dict(os.environ))
    attempt = runner.start(claim, job, None)
    try:
        until(lambda: Path(spool.dir("logs") + attempt.log).read_text() == "ready\n", what="the job has begun")
        runner.end(attempt, "cancelled", time.monotonic(), grace=0.1)

        def gone() -> bool:
            runner.check_deadlines(time.monotonic())
            return os.waitid(os.P_PIDFD, attempt.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        until(gone, limit=2.0, what="the job is killed")
    finally:
        os.killpg(attempt.pid, 9)
        runner.reap(attempt.pidfd)
        runner.close()


def test_an_old_requeue_that_is_repeated_requeues_nothing(spool: Spool, fs: Watched) -> None:
    renames: list[tuple[str, str]] = []

    def die(entry: Entry | None, when: int) -> None:
        assert entry is not None
        with Lease(spool, ROLE_WORKER) as lease:
            claim = spool.claim(entry, lease.worker, lease.next())
            assert claim is not None
            job = spool.read_claim(claim)
            assert job is not None
            spool.settle([Settlement(Record(claim, DEAD), jobs.settled(job, claim, 1, when))], [])

    die(waiting(spool), NOW)
    fs.after_rename = lambda source, target: renames.append((source, target))
    assert requeue(spool, "x")
    die(spool.find("x"), NOW + SECOND)
    (repeated,) = [pair for pair in renames if pair[0].endswith("dead/x.json")]
    os.rename(*repeated)
    recover(spool)
    assert places(spool, "x") == ["dead/x.json"]


def test_a_log_is_cut_while_its_job_runs(spool: Spool) -> None:
    spool.enqueue("head -c 5000000 /dev/zero; sleep 1000", id="x")
    log = Path(spool.dir("logs") + "x.1.log")
    with worker(spool, "--durability", "none", "--max-log", "1M"):
        until(lambda: log.exists() and b"bytes were left out" in log.read_bytes()[:70000], limit=10.0, what="it is cut")
        until(lambda: log.stat().st_size <= 1 << 20, limit=10.0, what="it is within its bound")


def test_a_claim_that_its_worker_does_not_know_of_is_given_back(spool: Spool) -> None:
    """R4: the reply to its rename was lost."""
    with worker(spool, "--durability", "none") as process:
        lease = next(name for name in listing(spool, "workers") if name.endswith(".json")).removesuffix(".json")
        path = Path(spool.root) / ".unseen"
        path.write_text(json.dumps({"command": "true", "id": "x"}))
        path.rename(spool.dir(PROCESSING) + f"20261123T000000.000000Z.p0.a1.x@{lease}.999.json")
        spool.put_request("nobody.cancel")  # whatever appears in workers/ makes it look around
        until(lambda: places(spool, "x") == ["completed/x.json"], limit=4.0, what="the job is run after all")
        assert "without our knowing" in process.said


def test_a_worker_leaves_alone_what_it_has_no_label_for(spool: Spool) -> None:
    spool.enqueue("true", id="x", needs=["gpu"])
    window = Window()
    for entry in spool.entries(["pending"]):
        window.offer(entry, "9999")
    assert window.pop() is None


def test_a_job_that_is_given_back_keeps_its_needs(spool: Spool) -> None:
    spool.enqueue("true", id="x", needs=["gpu"])
    entry = spool.find("x")
    assert entry is not None
    claim = spool.claim(entry, "host-1-aaaa", 1)
    assert claim is not None
    job = spool.read_claim(claim)
    assert job is not None
    settle_now(spool, release(claim, job, NOW))
    assert [place for place in places(spool, "x") if ".p0.a0.ngpu.x.json" in place]


def test_a_claim_whose_name_hides_its_needs_is_no_job(spool: Spool) -> None:
    path = Path(spool.dir(PROCESSING)) / "20261123T000000.000000Z.p0.a1.x@host-1-aaaa.1.json"
    path.write_text(json.dumps({"command": "true", "id": "x", "needs": ["gpu"]}))
    path.chmod(0o600)
    (claim,) = spool.claims()
    with pytest.raises(BadJob, match="needs"):
        spool.read_claim(claim)


def test_no_spool_is_made_where_names_are_cut(tmp_path: Path) -> None:
    class Short(Watched):
        def open(self, path: str, *how: int) -> int:
            if len(os.path.basename(path)) > 143:
                raise OSError(errno.ENAMETOOLONG, "File name too long", path)
            return os.open(path, *how)

    with pytest.raises(SpoolError, match="it takes no names of 255 letters"):
        Spool(tmp_path / "short", fs=Short())
