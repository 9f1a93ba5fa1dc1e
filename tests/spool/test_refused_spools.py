"""Spools that are refused: because others could write, a rename could not cross, or they are something else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from queuectl.errors import SPOOL, SpoolError
from queuectl.spool import Spool
from tests.support import mode, needs_root


def refused(path: Path | str, *, create: bool = True) -> str:
    """The message with which a spool is refused."""
    with pytest.raises(SpoolError) as caught:
        Spool(path, create=create)
    assert caught.value.exit_code == SPOOL
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "pending", "processing", "dead", ".tmp"])
def test_a_spool_that_everybody_may_write_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "spool"
    Spool(root)
    os.chmod(root, 0o755)
    path = os.path.join(root, name).rstrip("/")
    os.chmod(path, 0o777)
    assert refused(root) == (
        f"Everybody may write to {path}, so everybody could run commands as you. `chmod o-w {path}` mends it."
    )


def test_a_spool_below_a_directory_that_everybody_may_write_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    root = tmp_path / "open" / "spool"
    Spool(root)
    os.chmod(tmp_path / "open", 0o777)
    assert refused(root) == (
        f"Everybody may replace {root}, because {tmp_path}/open is writable for all without the sticky bit."
        f" `chmod o-w {tmp_path}/open` (or +t) mends it."
    )
    os.chmod(tmp_path / "open", 0o1777)
    Spool(root)


def test_a_link_to_a_spool_is_as_safe_as_the_directory_that_holds_the_link(tmp_path: Path) -> None:
    Spool(tmp_path / "spool")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "spool")
    Spool(tmp_path / "open" / "link")
    os.chmod(tmp_path / "open", 0o777)
    assert "Everybody may replace" in refused(tmp_path / "open" / "link")


@pytest.mark.parametrize("name", ["pending", "completed", ".tmp"])
def test_a_spool_with_a_linked_directory_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "spool"
    Spool(root)
    os.rmdir(root / name)
    (tmp_path / "elsewhere").mkdir()
    (root / name).symlink_to(tmp_path / "elsewhere")
    assert refused(root) == f"{root}/{name} is a symbolic link; a spool's directories must be directories."


@needs_root
@pytest.mark.parametrize("name", ["completed", ".tmp"])
def test_a_directory_on_another_file_system_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "spool"
    Spool(root)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "none", root / name], capture_output=True,
                             check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode()}")
    try:
        assert refused(root) == (
            f"{root}/{name} lies on another file system than pending/: a rename cannot cross."
            " Put the whole spool on one file system."
        )
    finally:
        subprocess.run(["umount", root / name], check=True)
    Spool(root)


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    Spool(root)
    os.rmdir(root / "dead")
    (root / "dead").write_text("")
    assert refused(root) == f"{root}/dead is no directory; a spool's directories must be directories."


def test_a_file_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    assert refused(tmp_path / "spool") == f"{tmp_path}/spool is no directory. Name one with --spool DIR."
    assert refused(tmp_path / "spool" / "x").startswith(f"Could not open the spool: {tmp_path}/spool/x: Not a dir")


def test_somebodys_directory_is_not_made_into_a_spool(tmp_path: Path) -> None:
    """`--spool /etc` by mistake must not make /etc a private directory."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    os.chmod(home, 0o755)
    (home / "letter.txt").write_text("dear")
    assert refused(home) == (
        f"{home} is no spool, and it isn't empty: it holds 'letter.txt'. Name an empty or a new directory."
    )
    assert mode(home) == 0o755
    assert os.listdir(home) == ["letter.txt"]


def test_an_empty_directory_and_one_that_holds_a_spools_directories_become_a_spool(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cloned" / "pending").mkdir(parents=True)
    (tmp_path / "cloned" / "README.md").write_text("")
    (tmp_path / "mount" / "lost+found").mkdir(parents=True)
    for name in ("empty", "cloned", "mount"):
        Spool(tmp_path / name, durability="none").enqueue("true")
        assert mode(tmp_path / name) == 0o700


def test_a_mount_point_without_its_mount_is_not_taken_for_an_empty_queue(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    assert refused(tmp_path / "mnt", create=False) == (
        f"{tmp_path}/mnt is no spool: it has no .id. If it is a mount point, mount it;"
        f" `queuectl init {tmp_path}/mnt` makes it one."
    )


@pytest.mark.parametrize(
    ("content", "shown"), [(b"queuectl-2 abc\n", "'queuectl-2 abc'"), (b"\xff\xfe", "'\\ufffd\\ufffd'")]
)
def test_another_layout_is_not_touched(tmp_path: Path, content: bytes, shown: str) -> None:
    Spool(tmp_path / "spool")
    (tmp_path / "spool" / ".id").write_bytes(content)
    assert refused(tmp_path / "spool") == (
        f"{tmp_path}/spool has another layout ({shown}); this queuectl knows layout 1. Use the version of queuectl that"
        " has made it."
    )
