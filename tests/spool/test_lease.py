"""Who is alive: the kernel's word on one host, the heartbeat as the observer saw it from another.

It is long because each way to be wrong about somebody's life has its test."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from queuectl.core.names import is_worker
from queuectl.errors import SpoolError
from queuectl.heart import Heart
from queuectl.lease import ROLE_CLI, ROLE_WORKER, Census, Lease, WorkerInfo, workers
from queuectl.spool import Spool
from tests.support import at_once, die, leftovers, listing, recover


def look(spool: Spool, now: float = 0.0, census: Census | None = None) -> dict[str, bool]:
    """Who is there, and whether alive."""
    return {info.id: info.alive for info in (census or Census(spool, 100.0)).look(now)}


def path_of(spool: Spool, lease: Lease) -> str:
    return spool.dir("workers") + lease.worker + ".json"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Be another host from now on."""
    return lambda name="other-host": monkeypatch.setenv("QUEUECTL_PRETEND_HOST", name)


def test_a_lease_is_a_file_that_says_who_holds_it(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER, slots=3, labels=("gpu", "big")) as lease:
        assert listing(spool, "workers") == [lease.worker + ".json"]
        assert is_worker(lease.worker)
        (info,) = workers(spool)
        assert (info.id, info.pid, info.role, info.slots, info.labels) == (
            lease.worker, os.getpid(), ROLE_WORKER, 3, ("gpu", "big"),
        )  # fmt: skip
        assert info.alive
        assert info.mine
        assert info.host == os.uname().nodename
        assert info.heartbeat_age < 60
        assert leftovers(spool) == []
    assert listing(spool, "workers") == []


def test_its_holder_may_be_called_what_it_likes(spool: Spool, elsewhere: Any) -> None:
    for name in ("x" * 300, "\u00fcber-host.example.org", "-", "a.b.c", "host_1"):
        elsewhere(name)
        with Lease(spool, ROLE_WORKER) as lease:
            assert is_worker(lease.worker)
            assert len(lease.worker) <= 40


def test_the_numbers_of_claims_never_repeat_and_no_two_leases_have_one_name(spool: Spool) -> None:
    """Row 21: even a clone of this machine, with this process id, gets a name of its own."""
    leases = [Lease(spool, ROLE_CLI) for _ in range(20)]
    assert len({lease.worker for lease in leases}) == 20
    assert [leases[0].next() for _ in range(3)] == [1, 2, 3]
    for lease in leases:
        lease.release()


def test_a_dead_holder_is_seen_at_once_and_a_living_one_never_called_dead(spool: Spool) -> None:
    lease, other = Lease(spool, ROLE_WORKER), Lease(spool, ROLE_WORKER)
    os.utime(path_of(spool, other), (1, 1))
    die(lease)
    assert look(spool) == {lease.worker: False, other.worker: True}, "however old its heartbeat is"
    other.release()


HOLD = """
import sys
from queuectl import Spool
from queuectl.lease import Lease
lease = Lease(Spool(sys.argv[1], durability="none"), "worker")
input()
print(lease.worker, flush=True)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_its_lease_to_the_kernel(spool: Spool) -> None:
    with pytest.raises(AssertionError):
        at_once(HOLD, [[spool.root]])
    (name,) = listing(spool, "workers")
    assert look(spool) == {name.removesuffix(".json"): False}


def test_a_child_process_does_not_keep_the_lease(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        assert not os.get_inheritable(lease._fd)


def test_whoever_looks_sees_itself_alive(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        assert look(spool, census=Census(spool, 100.0, lease.worker)) == {lease.worker: True}


def test_a_removed_lease_is_lost_for_good(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        assert lease.renew()
        os.unlink(path_of(spool, lease))
        assert not lease.renew()
        Path(path_of(spool, lease)).write_text("{}")
        assert not lease.renew(), "a file of the same name is not ours"


def test_renewing_moves_the_heartbeat_and_the_clock_of_the_file_system_is_learned_from_it(spool: Spool) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        os.utime(path_of(spool, lease), (1, 1))
        assert lease.renew()
        assert os.stat(path_of(spool, lease)).st_mtime > 1_000_000
        assert abs(lease.now() - time.time_ns()) < 1e9


# -- other hosts: time is an argument ---------------------------------------------------------------------------------


def test_another_host_is_dead_when_its_heartbeat_has_not_changed_for_long_enough(spool: Spool, elsewhere: Any) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        elsewhere()
        census = Census(spool, 100.0)
        assert look(spool, 1000.0, census) == {lease.worker: True}
        assert look(spool, 1099.9, census) == {lease.worker: True}
        assert look(spool, 1100.0, census) == {lease.worker: False}


@pytest.mark.parametrize("skew", [-1e6, 0.0, 1e6])
def test_no_clocks_are_compared(spool: Spool, elsewhere: Any, skew: float) -> None:
    """Row 34: a heartbeat from 1970 or from the year 2100 counts from when it was first seen."""
    with Lease(spool, ROLE_WORKER) as lease:
        elsewhere()
        census = Census(spool, 100.0)
        when = os.stat(path_of(spool, lease)).st_mtime + skew
        for beat in range(5):
            os.utime(path_of(spool, lease), (when - beat, when - beat))  # even backwards
            assert look(spool, 90.0 * beat, census) == {lease.worker: True}
        assert look(spool, 90.0 * 4 + 100.0, census) == {lease.worker: False}


def test_a_heartbeat_that_comes_back_is_life_again_for_this_observer(spool: Spool, elsewhere: Any) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        elsewhere()
        census = Census(spool, 100.0)
        look(spool, 0.0, census)
        assert look(spool, 200.0, census) == {lease.worker: False}
        assert lease.renew()
        assert look(spool, 201.0, census) == {lease.worker: True}


def test_the_lock_of_another_host_says_nothing(spool: Spool, elsewhere: Any) -> None:
    """Row 33: `nolock` mounts."""
    lease = Lease(spool, ROLE_WORKER)
    die(lease)
    elsewhere()
    assert look(spool) == {lease.worker: True}


def test_on_a_file_server_a_worker_of_a_client_lives_by_its_heartbeat(
    spool: Spool, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its clients share is a local file system there: their jobs were taken from them, and run twice."""
    elsewhere()
    with Lease(spool, ROLE_WORKER) as lease:
        monkeypatch.delenv("QUEUECTL_PRETEND_HOST")
        census = Census(spool, 10.0)
        assert not census._network
        assert {info.alive for now in (0.0, 9.0) for info in census.look(now)} == {True}
        assert [info.alive for info in census.look(11.0)] == [False]
        lease.release()


def test_a_worker_from_before_the_last_boot_is_dead_on_a_local_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 14: its process id may be somebody else's by now; it is not even looked at."""
    with monkeypatch.context() as earlier:
        earlier.setattr("queuectl.lease.boot_id", lambda: "earlier")
        lease = Lease(spool, ROLE_WORKER)
    with lease:
        assert look(spool) == {lease.worker: False}
        recover(spool)
        assert listing(spool, "workers") == []


def test_who_shows_workers_believes_an_old_heartbeat_of_another_host_no_longer(spool: Spool, elsewhere: Any) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        elsewhere()
        assert [info.alive for info in workers(spool)] == [True]
        os.utime(path_of(spool, lease), (1, 1))
        assert [info.alive for info in workers(spool)] == [False]


# -- what else may lie in workers/ ------------------------------------------------------------------------------------

NONSENSE: list[bytes] = [
    b"", b"\0" * 100, b"no json", b"[]", b"5", b"\xff\xfe", b"[" * 60_000, b'{"a":' * 10_000, b"{" + b" " * 70_000,
    json.dumps({"labels": 5, "pid": "x", "slots": None, "host": [], "boot_id": 7, "role": {}}).encode(),
    b'{"labels": {"a": 1}, "slots": 1e999, "pid": -1}', b'{"pid": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
def test_a_lease_that_says_nonsense_stops_nobody(spool: Spool, content: bytes) -> None:
    Path(spool.dir("workers") + "somebody.json").write_bytes(content)
    with Lease(spool, ROLE_WORKER) as lease:
        found = look(spool)
        assert found[lease.worker] is True
        assert found.get("somebody") is False
    recover(spool)
    assert listing(spool, "workers") == []


def strange(spool: Spool, kind: str) -> None:
    path = spool.dir("workers") + "strange.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "link":
        os.symlink("/etc/shadow", path)
    elif kind == "dangling":
        os.symlink("/nowhere", path)
    else:
        here = os.open(spool.dir("workers"), os.O_PATH)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/strange.json")
        os.close(here)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "dangling", "socket"])
def test_what_is_no_file_is_no_lease_and_stops_nobody(spool: Spool, kind: str) -> None:
    strange(spool, kind)
    with Lease(spool, ROLE_WORKER) as lease:
        assert look(spool) == {lease.worker: True}
    recover(spool)


@pytest.mark.parametrize("name", ["x.stop", "job1.cancel", ".x.json", "a b.json", "\udcff.json", "x.json.tmp"])
def test_other_names_are_no_leases(spool: Spool, name: str) -> None:
    Path(spool.dir("workers") + name).write_text("{}")
    assert look(spool) == {}


def test_trouble_with_the_disk_is_told_of_and_nobody_is_called_dead(spool: Spool, monkeypatch: Any) -> None:
    with Lease(spool, ROLE_WORKER):
        def broken(fd: int) -> os.stat_result:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        with monkeypatch.context() as patch:
            patch.setattr("queuectl.lease.os.fstat", broken)
            with pytest.raises(SpoolError, match=r"Could not read a (lease|worker's file): "):
                Census(spool, 100.0).look(0.0)


def test_stopping_that_could_not_be_said_is_said_again(spool: Spool, monkeypatch: Any) -> None:
    with Lease(spool, ROLE_WORKER) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(spool, "rewrite_lease", lambda *_: (_ for _ in ()).throw(SpoolError("a full disk")))
            with pytest.raises(SpoolError):
                lease.say_stopping()
        lease.say_stopping()
        (about,) = workers(spool)
        assert about.stopping


def test_what_is_known_of_a_worker_can_be_shown(spool: Spool) -> None:
    assert WorkerInfo._fields[0] == "id"
    with Lease(spool, ROLE_WORKER), Lease(spool, ROLE_CLI):
        assert sorted(info.role for info in workers(spool)) == [ROLE_CLI, ROLE_WORKER]


class Server:
    """What a lease is renewed on: it counts, and answers when it may."""

    def __init__(self, *, answers: bool) -> None:
        self.beats, self._answer = threading.Semaphore(0), threading.Event()
        if answers:
            self.answer()

    def renew(self) -> bool:
        self.beats.release()
        return self._answer.wait(20)

    def answer(self) -> None:
        self._answer.set()


def test_a_shorter_stale_after_reaches_the_fence_of_a_worker_that_runs() -> None:
    """Others take its jobs after the new time; with the old fence they would run twice."""
    server, fenced = Server(answers=False), threading.Event()
    beating = Heart(cast(Lease, server), 60.0, lambda: None)
    beating.fence_after(60.0, fenced.set)
    beating.start()
    try:
        beating.change(60.0, 0.3)
        assert fenced.wait(5)
    finally:
        server.answer()
        beating.stop()


def test_a_shorter_heartbeat_is_in_force_at_once() -> None:
    """Not after the pause that was begun with the old one: others would take it for dead meanwhile."""
    server = Server(answers=True)
    beating = Heart(cast(Lease, server), 60.0, lambda: None)
    beating.start()
    try:
        beating.change(0.1, 30.0)
        assert all(server.beats.acquire(timeout=5) for _ in range(3))
    finally:
        beating.stop()


def test_a_machine_that_was_suspended_fences_itself_as_soon_as_it_wakes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits go by a clock that stood still meanwhile."""
    slept = [0.0]
    monkeypatch.setattr("queuectl.heart.clock", lambda: time.monotonic() + slept[0])
    fenced = threading.Event()
    with Lease(spool, ROLE_WORKER) as lease:
        heart = Heart(lease, 1000.0, lambda: None)
        heart.fence_after(500.0, fenced.set)
        heart.start()
        slept[0] = 3600.0
        try:
            assert fenced.wait(20)
        finally:
            heart.stop()


def test_another_spool_at_its_place_does_not_say_that_a_lease_is_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", durability="none")
    with Lease(spool, ROLE_WORKER) as lease:
        os.rename(spool.root, tmp_path / "away")
        Spool(spool.root, durability="none")
        with pytest.raises(SpoolError, match="is not the spool it was"):
            lease.renew()
        os.rename(spool.root, tmp_path / "stranger")
        os.rename(tmp_path / "away", spool.root)
        assert lease.renew()
