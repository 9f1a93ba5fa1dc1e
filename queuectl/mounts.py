"""What the spool lies on: the file system's type and mount options, and whether other hosts may share it.

Reads /proc only. When /proc says nothing, the file system counts as a local one of unknown type.
"""

from __future__ import annotations

import os
from typing import NamedTuple

# Types on which a change made by another host is not announced by inotify. FUSE is among them because sshfs,
# GlusterFS and CephFS come that way; polling a local FUSE file system costs a listing a second and nothing else.
NETWORK = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "gpfs", "beegfs",
        "orangefs", "pvfs2", "glusterfs", "virtiofs", "ncpfs",
    }
)  # fmt: skip


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo: type ("ext4", "nfs4", "fuse.sshfs"), options, mount point and source."""

    type: str
    options: frozenset[str]
    point: str
    source: str

    @property
    def network(self) -> bool:
        """Whether other hosts may share it, so that inotify doesn't tell everything."""
        return self.type in NETWORK or self.type.startswith("fuse")

    @property
    def nfs(self) -> bool:
        return self.type in ("nfs", "nfs4")

    @property
    def kind(self) -> str:
        """What it is, for people: "NFS 4.2", "ext4"."""
        if not self.nfs:
            return self.type
        version = next((option[5:] for option in sorted(self.options) if option.startswith("vers=")), "")
        return f"NFS {version}".rstrip()


def mount_of(path: str) -> Mount:
    """The mount on which `path` lies, by the mount id of an open descriptor: right for bind mounts, subvolumes and
    overlays too, where device numbers mislead."""
    unknown = Mount("unknown", frozenset(), "/", "")
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
                mount_id = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
        finally:
            os.close(fd)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.partition(" ")[0] == mount_id:
                    return parse_line(line)
    except OSError:
        pass
    return unknown


def parse_line(line: str) -> Mount:
    """A line of /proc/self/mountinfo."""
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue      (proc(5))
    left, _, right = line.rstrip("\n").partition(" - ")
    fields = left.split(" ")
    kind, source, options = right.split(" ", 2)  # the source may be empty
    return Mount(kind, frozenset(fields[5].split(",") + options.split(",")), _plain(fields[4]), _plain(source))


def _plain(text: str) -> str:
    """The text with its blanks: the kernel writes them as octal escapes."""
    for escape, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, letter)
    return text
