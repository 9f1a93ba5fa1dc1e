"""`queuectl doctor` and `queuectl init` on real file systems: good ones, read-only ones, and ones that mangle names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.filesystems.mounts import run, unmount
from tests.support import environment, needs_root, queuectl, until

pytestmark = needs_root

PASSTHROUGH = Path(__file__).with_name("passthrough.py")
# All that is tried, whatever the size of the disk.
TRIED = {"file system", "modes", "names", "exclusive create", "symbolic link", "rename", "replace", "hard link", "sync",
         "lock", "inotify", "clock"}  # fmt: skip


def levels(spool: Spool | Path, *options: str, limit: float = 60.0) -> tuple[int, dict[str, str]]:
    """The exit code, and the level of each check."""
    done = queuectl(spool, "doctor", "--json", *options, limit=limit)
    assert done.stdout, done.stderr
    return done.returncode, {one["check"]: one["level"] for one in json.loads(done.stdout)["findings"]}


def test_each_file_system_has_what_queuectl_counts_on(spool_on: Spool) -> None:
    assert queuectl(spool_on, "config", "set", "min-free", "0").returncode == 0
    code, found = levels(spool_on)
    assert set(found) >= TRIED
    assert {check: found[check] for check in TRIED} == dict.fromkeys(TRIED, "green")
    assert code == (0 if set(found.values()) == {"green"} else 1)
    assert not os.path.exists(f"{spool_on.root}/.doctor")


def test_two_doctors_meet_on_each_file_system(spool_on: Spool) -> None:
    command = [sys.executable, "-m", "queuectl", "--spool", spool_on.root, "doctor", "--peer", "--json", "--wait=30s"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    seen = [json.loads(one.communicate(timeout=90)[0]) for one in both]
    for one in seen:
        found = {finding["check"]: finding["level"] for finding in one["findings"]}
        assert [found[check] for check in ("other host", "seen by listing", "seen by open", "told by inotify", "claims",
                                           "other clock", "lock across hosts")] == ["green"] * 7  # fmt: skip
    assert not os.path.exists(f"{spool_on.root}/.doctor")


def test_a_read_only_mount_is_trouble(on_ext4: Spool) -> None:
    run("mount", "-o", "remount,ro", os.path.dirname(on_ext4.root))
    code, found = levels(on_ext4)
    assert code == 3
    assert (found["mount options"], found["writing"]) == ("red", "red")
    assert "rename" not in found, "what cannot be tried is not judged"
    shown = queuectl(on_ext4, "doctor").stdout
    assert "Read-only file system" in shown


# -- a file system in user space that does one thing wrong ------------------------------------------------------------


@contextmanager
def passthrough(kind: str, tmp_path: Path) -> Iterator[Path]:
    pytest.importorskip("mfusepy", reason="needs mfusepy (PyPI) and libfuse3", exc_type=Exception)
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    backing, place = tmp_path / "backing", tmp_path / "mount"
    backing.mkdir(mode=0o700)
    place.mkdir()
    server = subprocess.Popen([sys.executable, PASSTHROUGH, kind, backing, place], stderr=subprocess.PIPE)
    try:
        until(lambda: os.path.ismount(place) or server.poll() is not None, what="it is mounted")
        if server.poll() is not None:
            pytest.skip(f"FUSE cannot be mounted here: {server.stderr.read().decode()[-200:]}")  # type: ignore[union-attr]
        yield place
    finally:
        unmount(place)
        server.kill()
        server.communicate()


def test_a_pass_through_that_lies_about_nothing_carries_a_spool(tmp_path: Path) -> None:
    """Else the next test might fail for another reason."""
    with passthrough("plain", tmp_path) as place:
        assert queuectl(place / "spool", "init").returncode == 0
        _, found = levels(place / "spool")
        assert {check: found[check] for check in TRIED - {"file system", "replace"}} == dict.fromkeys(
            TRIED - {"file system", "replace"}, "green"
        )
        assert queuectl(place / "spool", "enqueue", "--id", "one", "true").returncode == 0
        assert queuectl(place / "spool", "worker", "start", "--until-empty").returncode == 0
        assert os.listdir(place / "spool" / "completed") == ["one.json"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nocase", "it takes capital and small letters for the same"),
        ("lower", "it changes names: a file is listed under another name than it was given"),
        ("short", "it takes no names of 255 letters"),
        ("nosymlink", "it has no symbolic links (Operation not permitted)"),
    ],
)
def test_no_spool_is_made_where_names_are_not_kept(kind: str, reason: str, tmp_path: Path) -> None:
    with passthrough(kind, tmp_path) as place:
        for command in (["init"], ["enqueue", "true"]):
            refused = queuectl(place / "spool", *command)
            assert (refused.returncode, refused.stdout) == (3, "")
            assert refused.stderr == (
                f"queuectl: No spool can lie at {place}/spool: {reason}. Name a directory on another file system.\n"
            )
        assert os.listdir(place / "spool") == [], "nothing is left in it"
