"""Rows 65 to 72: whatever lies in pending/, nothing blocks, nothing else is read, and no byte is lost."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl.admission import SETTLE_TIME, Admission
from queuectl.cli.render import safe
from queuectl.errors import BadJob
from queuectl.spool import Spool
from tests.support import drop, listing, needs_root, whole_tree

NOW = 1_795_338_930_000_000_000
LINK = "a symbolic link is no job; put the file itself there"
SPECIAL = "a FIFO, socket or device is no job; put a regular file there"


def fifo(path: str) -> None:
    os.mkfifo(path)


def device(path: str) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: reading it never ends


def listening(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(os.path.dirname(path), os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/{os.path.basename(path)}")
        os.close(here)


def to_shadow(path: str) -> None:
    os.symlink("/etc/shadow", path)


def dangling(path: str) -> None:
    os.symlink("/nowhere/at/all", path)


def to_itself(path: str) -> None:
    os.symlink(os.path.basename(path), path)


def sparse(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(10 << 30)


def linked(path: str) -> None:
    outside = os.path.join(os.path.dirname(path), "..", "outside")
    Path(outside).write_text('{"command": "true"}')
    os.link(outside, path)


def zeros(path: str) -> None:
    Path(path).write_bytes(b"\0" * 4096)


STRANGE = [
    (fifo, SPECIAL),
    pytest.param(device, SPECIAL, marks=needs_root),
    (listening, "a socket or device is no job; put a regular file there"),
    (to_shadow, LINK),
    (dangling, LINK),
    (to_itself, LINK),
    (sparse, "the file is larger than 1048576 bytes; put the data in a file of its own"),
    (linked, "the file has 2 names (hard links), so another could change it; copy it"),
    (zeros, "the file is empty; it needs a JSON object with a command"),
]
CANONICAL = "20200101T000000.000000Z.p0.a0.job1.json"


def told(spool: Spool) -> tuple[Admission, list[str]]:
    said: list[str] = []
    return Admission(spool, said.append), said


@pytest.mark.parametrize(("make", "message"), STRANGE)
@pytest.mark.parametrize("name", ["x.json", CANONICAL])
def test_it_is_refused_without_being_read_or_waited_for(
    spool: Spool, make: Callable[[str], None], message: str, name: str
) -> None:
    make(spool.dir("pending") + name)
    with pytest.raises(BadJob) as caught:
        spool.adopt(name, NOW)
    assert str(caught.value) == message


@pytest.mark.parametrize(("make", "message"), STRANGE)
def test_a_worker_sets_it_aside_once_it_has_stopped_changing_and_keeps_it_as_it_is(
    spool: Spool, make: Callable[[str], None], message: str
) -> None:
    path = spool.dir("pending") + "x.json"
    make(path)
    before = os.lstat(path)
    admission, said = told(spool)
    admission.notice("x.json", 100.0)
    assert admission.turn(100.0, NOW) == []
    assert listing(spool, "pending") == ["x.json"], "it may still be being written"
    assert admission.turn(100.0 + SETTLE_TIME, NOW) == []
    assert listing(spool, "pending") == []
    after = os.lstat(spool.dir("dead") + "x.json.rejected")
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)
    assert Path(spool.dir("dead") + "x.json.rejected.reason").read_text() == message + "\n"
    assert said == [f"pending/x.json is no job and was set aside as dead/x.json.rejected: {message}"]
    assert list(spool.rejected()) == [("x.json.rejected", message)]
    assert admission.next_look() is None


def test_a_directory_is_left_alone_and_said_once(spool: Spool) -> None:
    os.mkdir(spool.dir("pending") + "x.json")
    Path(spool.dir("pending") + "x.json/inside.json").write_text('{"command": "true"}')
    admission, said = told(spool)
    for _ in range(3):
        admission.notice("x.json", 100.0)
        admission.turn(200.0, NOW)
    assert said == ["pending/x.json is a directory and is left alone; drop files, not directories"]
    assert listing(spool, "pending") == ["x.json"]
    assert admission.next_look() is None


@pytest.mark.parametrize("name", [".nfs0000001", ".x.json", ".snapshot", "x.json.swp", "x.json~", "x.part", "README"])
def test_what_is_none_of_our_business_is_neither_listed_nor_counted(spool: Spool, name: str) -> None:
    for state in ("pending", "processing", "completed", "failed", "dead"):
        Path(spool.dir(state) + name).write_text("not for us")
    assert list(spool.entries()) == []
    assert set(spool.counts().values()) == {0}


@pytest.mark.parametrize("state", ["processing", "failed"])
def test_a_foreign_file_where_only_queuectl_writes_is_left_alone(spool: Spool, state: str) -> None:
    Path(spool.dir(state) + "x.json").write_text('{"command": "true"}')
    assert list(spool.entries()) == []
    assert spool.claims() == []


def test_the_target_of_a_link_is_neither_read_nor_touched(spool: Spool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"command": "true"}')
    os.utime(secret, (1, 1))
    os.symlink(secret, spool.dir("pending") + "x.json")
    admission, said = told(spool)
    admission.notice("x.json", 0.0)
    admission.turn(0.0, NOW)
    admission.turn(60.0, NOW)
    assert os.stat(secret).st_atime == 1
    assert os.readlink(spool.dir("dead") + "x.json.rejected") == str(secret)
    assert said[0].endswith(LINK)


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.json", b"a\nb.json", b"\x1b[31mred.json", b'quote".json', "\u202ered.json".encode(),
             b"x" * 250 + b".json", "é".encode() * 125 + b".json"],
)  # fmt: skip
def test_a_bad_file_of_any_name_is_set_aside_with_its_bytes_and_said_without_harm_to_a_terminal(
    spool: Spool, name: bytes
) -> None:
    drop(spool, name, b"no job")
    (listed,) = spool.names("pending")
    admission, said = told(spool)
    admission.notice(listed, 0.0)
    admission.turn(0.0, NOW)
    admission.turn(60.0, NOW)
    rejected = [found for found in os.listdir(os.fsencode(spool.dir("dead"))) if found.endswith(b".rejected")]
    assert len(rejected) == 1
    assert Path(os.fsdecode(os.path.join(os.fsencode(spool.dir("dead")), rejected[0]))).read_bytes() == b"no job"
    assert len(said) == 1
    assert safe(said[0]).isprintable(), "what a worker says is made safe where it is printed"
    json.dumps([reason for _, reason in spool.rejected()], ensure_ascii=False).encode()


def test_files_rejected_under_one_name_do_not_replace_each_other(spool: Spool) -> None:
    for n in range(4):
        drop(spool, "x.json", f"no job {n}")
        assert spool.reject("pending", "x.json", f"reason {n}")
        if n == 1:  # somebody tidies up
            os.unlink(spool.dir("dead") + "x.json.rejected.reason")
    kept = [Path(spool.dir("dead") + name).read_text() for name, _ in spool.rejected()]
    assert sorted(kept) == [f"no job {n}" for n in range(4)]


def test_a_file_that_somebody_else_took_leaves_no_reason_behind(spool: Spool) -> None:
    assert spool.reject("pending", "gone.json", "why") is None
    assert listing(spool, "dead") == []


def test_rejected_files_are_no_jobs(spool: Spool) -> None:
    drop(spool, "x.json", "no job")
    spool.reject("pending", "x.json", "why")
    assert spool.counts()["dead"] == 0
    assert list(spool.entries()) == []
    assert spool.find("x") is None


def test_looking_at_strange_files_leaves_no_trace_elsewhere(spool: Spool) -> None:
    before = whole_tree(spool)
    os.mkfifo(spool.dir("pending") + "x.json")
    with pytest.raises(BadJob):
        spool.adopt("x.json", NOW)
    os.unlink(spool.dir("pending") + "x.json")
    assert whole_tree(spool) == before


def test_a_file_that_is_removed_while_it_is_opened_is_gone_and_no_bad_job(tmp_path: Path) -> None:
    class Removed:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def open(self, path: str, *rest: int) -> int:
            fd = os.open(path, *rest)
            if path.endswith("x.json"):
                os.unlink(path)
            return fd

    spool = Spool(tmp_path / "spool", durability="none", fs=Removed())
    drop(spool, "x.json", '{"command": "true"}')
    assert spool.adopt("x.json", NOW) is None
