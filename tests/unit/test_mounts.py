"""What /proc/self/mountinfo says of a mount."""

from __future__ import annotations

import pytest

from queuectl.mounts import Mount, mount_of, parse_line

LINES = [
    ("36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw,errors=remount-ro",
     Mount("ext4", frozenset({"rw", "noatime", "errors=remount-ro"}), "/", "/dev/root"), False),
    ("36 35 0:50 / /home rw shared:7 master:2 propagate_from:3 - nfs4 srv:/export rw,vers=4.2,hard,local_lock=none",
     Mount("nfs4", frozenset({"rw", "vers=4.2", "hard", "local_lock=none"}), "/home", "srv:/export"), True),
    ("36 35 0:50 / /mnt rw - nfs srv:/x ro,soft,nolock",
     Mount("nfs", frozenset({"rw", "ro", "soft", "nolock"}), "/mnt", "srv:/x"), True),
    ("36 35 0:50 / /a\\040b\\011c\\134d rw - tmpfs none\\040x rw",
     Mount("tmpfs", frozenset({"rw"}), "/a b\tc\\d", "none x"), False),
    ("36 35 0:50 / /m rw - fuse.sshfs me@host: rw,user_id=0",
     Mount("fuse.sshfs", frozenset({"rw", "user_id=0"}), "/m", "me@host:"), True),
    ("36 35 0:50 / /m rw - fuseblk /dev/sda1 rw", Mount("fuseblk", frozenset({"rw"}), "/m", "/dev/sda1"), True),
    ("36 35 0:50 / /m rw - cifs //srv/share rw", Mount("cifs", frozenset({"rw"}), "/m", "//srv/share"), True),
    ("36 35 0:50 / /m rw - 9p share rw,trans=virtio", Mount("9p", frozenset({"rw", "trans=virtio"}), "/m", "share"),
     True),
    ("36 35 0:50 /sub /m rw - btrfs /dev/sdb rw,subvol=/sub",
     Mount("btrfs", frozenset({"rw", "subvol=/sub"}), "/m", "/dev/sdb"), False),
    ("36 35 0:50 / /m rw - overlay  rw,lowerdir=/l", Mount("overlay", frozenset({"rw", "lowerdir=/l"}), "/m", ""),
     False),
]  # fmt: skip


@pytest.mark.parametrize(("line", "mount", "network"), LINES, ids=[mount.type for _, mount, _ in LINES])
def test_a_line_is_read(line: str, mount: Mount, network: bool) -> None:
    assert parse_line(line + "\n") == mount
    assert mount.network is network


def test_the_mount_of_a_pseudo_file_system_is_found() -> None:
    mount = mount_of("/proc/self")
    assert (mount.type, mount.point, mount.network) == ("proc", "/proc", False)


def test_a_path_that_is_not_there_lies_on_an_unknown_local_mount() -> None:
    mount = mount_of("/nowhere/at/all")
    assert (mount.type, mount.network) == ("unknown", False)


def test_nfs_is_named_with_its_version() -> None:
    assert [mount.kind for _, mount, _ in LINES[:3]] == ["ext4", "NFS 4.2", "NFS"]
    assert [mount.nfs for _, mount, _ in LINES[:3]] == [False, True, True]
