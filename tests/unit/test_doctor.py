"""The doctor notices what a file system does wrong: each lie in a call makes its check red or yellow, and no other."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from queuectl import doctor, probe
from queuectl.doctor import GREEN, RED, YELLOW, Finding, judge_mount, judge_peer
from queuectl.mounts import parse_line
from queuectl.peer import CLAIMS, Report
from queuectl.probe import MEETING, scratch
from queuectl.spool import Spool
from tests.support import listing


class Lies:
    """`os`, but for the calls that are given."""

    def __init__(self, **calls: Callable[..., Any]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name, getattr(os, name))


def levels(spool: Spool, fs: object = os) -> dict[str, str]:
    """The level of each check; of several findings of one check the worst."""
    found: dict[str, str] = {}
    for one in doctor.examine(spool, 0, None, lambda _: None, fs)[0]:
        found[one.check] = max(found.get(one.check, GREEN), one.level, key=[GREEN, YELLOW, RED].index)
    return found


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def opens_anything(path: Any, flags: int, *mode: int, **more: Any) -> int:
    return os.open(path, flags & ~os.O_EXCL, *mode, **more)


class LateRename:
    """Two steps, as a copy is: between them two may take one file. In a race they do so once."""

    def __init__(self) -> None:
        self._between = threading.Barrier(2)
        self._met = False

    def __call__(self, source: str, target: str) -> None:
        os.link(source, target)
        if not self._met and target.endswith(str(threading.get_ident())):
            try:
                self._between.wait(2)  # until another one has made the first step too
                self._met = True
            except threading.BrokenBarrierError:
                self._between.reset()  # nobody came
        with suppress(FileNotFoundError):
            os.unlink(source)


def denied_rename(source: str, target: str) -> None:
    """Done, and denied."""
    os.rename(source, target)
    if target.endswith(str(threading.get_ident())) and "name-7" in source:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)


def gap(source: str, target: str) -> None:
    """A replacement that removes the old file first."""
    if os.path.exists(target):
        os.unlink(target)
        time.sleep(0.001)
    os.rename(source, target)


def over_symlink(source: str, target: str) -> None:
    if os.path.islink(target):
        os.unlink(target)
    os.symlink(source, target)


def over_link(source: str, target: str) -> None:
    if os.path.exists(target):
        os.unlink(target)
    os.link(source, target)


def capitals(path: Any) -> list[str]:
    return [name.upper() for name in os.listdir(path)]


def any_case(path: Any) -> os.stat_result:
    """A look that doesn't tell capital from small letters."""
    directory, name = os.path.split(path)
    for known in os.listdir(directory):
        if known.lower() == name.lower():
            return os.lstat(os.path.join(directory, known))
    return os.lstat(path)


def short_open(path: Any, flags: int, *mode: int) -> int:
    if len(os.path.basename(path)) > 143:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    return os.open(path, flags, *mode)


def no_directories(fd: int) -> None:
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def slow(fd: int) -> None:
    time.sleep(doctor.SLOW_SYNC * 1.2)


def old_times(fd: int) -> os.stat_result:
    found = os.fstat(fd)
    return _Shifted(found)  # type: ignore[return-value]


class _Shifted:
    """A stat of which the time is an hour old."""

    def __init__(self, found: os.stat_result) -> None:
        self._found = found
        self.st_mtime_ns = found.st_mtime_ns - 3600 * 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


LIES = [
    ("exclusive create", RED, Lies(open=opens_anything)),
    ("symbolic link", RED, Lies(symlink=over_symlink)),
    ("symbolic link", RED, Lies(symlink=refuse(errno.EPERM))),
    ("rename", RED, Lies(rename=LateRename())),
    ("rename", RED, Lies(rename=denied_rename)),
    ("replace", YELLOW, Lies(rename=gap)),
    ("hard link", YELLOW, Lies(link=refuse(errno.EPERM))),
    ("hard link", YELLOW, Lies(link=over_link)),
    ("names", RED, Lies(listdir=capitals)),
    ("names", RED, Lies(lstat=any_case)),
    ("names", RED, Lies(open=short_open)),
    ("sync", YELLOW, Lies(fsync=no_directories)),
    ("sync", YELLOW, Lies(fsync=slow)),
    ("sync", RED, Lies(fsync=refuse(errno.EIO))),
    ("clock", YELLOW, Lies(fstat=old_times)),
]
LIE_NAMES = ["create", "symlink", "no-symlink", "late-rename", "denied-rename", "gap", "no-link", "over-link",
             "capitals", "any-case", "short", "no-directory-sync", "slow-sync", "eio", "old-times"]  # fmt: skip
ALSO = {"create": {"replace"}, "late-rename": {"replace"}}  # what the same lie must disturb besides


@pytest.fixture
def durable(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", durability="fsync")


def test_on_a_good_disk_all_that_is_tried_is_good_and_nothing_is_left(durable: Spool) -> None:
    before = sorted(os.listdir(durable.root))
    found = levels(durable)
    assert {check: level for check, level in found.items() if level != GREEN and check not in ("space", "inodes")} == {}
    assert sorted(os.listdir(durable.root)) == before


@pytest.mark.parametrize(("check", "level", "fs"), LIES, ids=LIE_NAMES)
def test_a_lie_is_found_out(durable: Spool, check: str, level: str, fs: object, request: pytest.FixtureRequest) -> None:
    good, found = levels(durable), levels(durable, fs)
    name = request.node.callspec.id
    assert found[check] == level
    changed = {one for one in found if found[one] != good.get(one)} - ALSO.get(name, set())
    assert changed == {check}, "the other checks are not disturbed"


def test_a_lock_that_two_get_is_found_out(durable: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "flock", lambda fd, how: None)
    assert levels(durable)["lock"] == RED
    monkeypatch.setattr(probe, "flock", refuse(errno.ENOLCK))
    assert levels(durable)["lock"] == RED


def test_a_kernel_that_tells_nothing_is_found_out(durable: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EVENT_LIMIT", 0.2)
    monkeypatch.setattr("queuectl.wakeup.Wakeup.take", lambda self: ([], False))
    assert levels(durable)["inotify"] == YELLOW


def test_space_modes_and_durability_are_judged(spool: Spool, tmp_path: Path) -> None:
    def find(check: str, least: int = 0) -> Finding:
        return next(one for one in doctor.examine(spool, least, None, print)[0] if one.check == check)

    free, _ = spool.free()
    assert find("space", 2 * free).level == RED
    assert find("space", free // 2).level == YELLOW
    assert find("space").level == GREEN
    assert find("sync").level == YELLOW, "durability is none"
    os.chmod(spool.dir("logs"), 0o755)
    assert find("modes") == Finding(
        "modes", RED, f"{spool.dir('logs')} is 0755: others may read or change it",
        "`queuectl fsck --repair` sets them right.",
    )  # fmt: skip


def test_what_a_killed_doctor_left_is_removed_after_an_hour(spool: Spool) -> None:
    for name in ("old", "young"):
        os.makedirs(f"{spool.root}/{MEETING}/{name}/inner")
    os.utime(f"{spool.root}/{MEETING}/old", (1e9, 1e9))
    with scratch(spool.root):
        assert sorted(name for name in listing(spool, MEETING) if len(name) < 10) == ["young"]


def test_in_a_group_spool_the_members_can_read_what_a_doctor_writes(tmp_path: Path) -> None:
    from queuectl.tree import initialise

    initialise(str(tmp_path / "spool"), group=os.getegid())
    old = os.umask(0o077)
    try:
        with scratch(str(tmp_path / "spool")) as place:
            place.put("hello", b"x")
            place.rewrite("beat", b"x")
            for path in (place.meeting, place.place, place.path("hello"), place.path("beat")):
                assert os.stat(path).st_mode & 0o060 == 0o060, path
    finally:
        os.umask(old)


# -- mount options: given the text of mountinfo -----------------------------------------------------------------------

HEAD = "36 35 0:50 / /srv rw,relatime shared:7 - "
MOUNTS = [
    ("nfs4 srv:/x rw,vers=4.2,hard,proto=tcp,timeo=600,local_lock=none", {}),
    ("nfs4 srv:/x rw,vers=4.2,soft,proto=tcp", {"soft": RED}),
    ("nfs4 srv:/x rw,vers=4.1,softerr", {"softerr": RED}),
    ("nfs4 srv:/x ro,vers=4.2,hard", {"ro": RED}),
    ("nfs srv:/x rw,vers=3,hard,nolock", {"nolock": YELLOW, "NFS version 3": YELLOW}),
    ("nfs srv:/x rw,vers=3,soft,nocto,noac", {"soft": RED, "nocto": YELLOW, "noac": YELLOW, "NFS version 3": YELLOW}),
    ("nfs srv:/x rw,hard", {"NFS version 3": YELLOW}),
    ("ext4 /dev/vda1 rw,errors=remount-ro", {}),
    ("ext4 /dev/vda1 rw,nobarrier", {"nobarrier": YELLOW}),
    ("ext4 /dev/vda1 ro", {"ro": RED}),
    ("tmpfs tmpfs rw,size=1024k", {"tmpfs": YELLOW}),
    ("xfs /dev/sdb rw,softdep=1", {}),  # an option that only looks like another
]


@pytest.mark.parametrize(("text", "expected"), MOUNTS, ids=[text for text, _ in MOUNTS])
def test_mount_options_are_judged(text: str, expected: dict[str, str]) -> None:
    found = judge_mount(parse_line(HEAD + text + "\n"))
    bad = {one.found.partition(":")[0]: one.level for one in found if one.level != GREEN}
    assert bad == expected
    assert all(one.remedy for one in found if one.level != GREEN)
    assert found, "there is a line in any case"


# -- what a meeting has shown -----------------------------------------------------------------------------------------

GOOD = Report(True, True, "beta", False, 0.001, (0.004, 0.1), (0.003, 0.004), 2.6, None, "shared", (80, CLAIMS - 80, 0))
MEETINGS: list[tuple[Report, bool, dict[str, str]]] = [
    (GOOD, True, {}),
    (GOOD._replace(stated=None), True, {}),
    (Report(), True, {"other host": YELLOW}),
    (GOOD._replace(complete=False), True, {"other host": RED}),
    (GOOD._replace(listed=()), True, {"seen by listing": RED}),
    (GOOD._replace(listed=(0.1, 30.0)), True, {"seen by listing": YELLOW}),
    (GOOD._replace(opened=()), True, {"seen by open": RED}),
    (GOOD._replace(opened=(12.0,)), True, {"seen by open": YELLOW}),
    (GOOD, False, {"told by inotify": YELLOW}),
    (GOOD._replace(told=0.01), False, {}),
    (GOOD._replace(offset=-3600.0), True, {"other clock": YELLOW}),
    (GOOD._replace(lock="not shared"), True, {"lock across hosts": YELLOW}),
    (GOOD._replace(lock="not shared", same_kernel=True), True, {"lock across hosts": RED}),
    (GOOD._replace(claimed=(120, CLAIMS - 80, 40)), True, {"claims": RED}),
    (GOOD._replace(claimed=(70, CLAIMS - 80, 0)), True, {"claims": RED}),
]


@pytest.mark.parametrize(("report", "network", "expected"), MEETINGS)
def test_what_a_meeting_has_shown_is_judged(report: Report, network: bool, expected: dict[str, str]) -> None:
    found = list(judge_peer(report, network))
    assert {one.check: one.level for one in found if one.level != GREEN} == expected
    assert all(one.remedy for one in found if one.level != GREEN)


def test_the_worst_counts() -> None:
    def with_levels(*given: str) -> Iterator[Finding]:
        return (Finding("x", level, "") for level in given)

    assert doctor.worst(list(with_levels(GREEN, RED, YELLOW))) == RED
    assert doctor.worst(list(with_levels(GREEN, YELLOW))) == YELLOW
    assert doctor.worst(list(with_levels(GREEN))) == GREEN
