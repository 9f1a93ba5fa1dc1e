"""A file system in user space that passes everything on to a directory, but for one thing that it does wrong.

    python passthrough.py KIND BACKING MOUNTPOINT

    plain     nothing is wrong
    nocase    capital and small letters are the same, as on vfat, or a folder of ext4 or xfs that was made so
    lower     all names become small letters
    short     names have at most 143 bytes, as on eCryptfs
    nosymlink there are no symbolic links, as on vfat
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import Any

import mfusepy

UTIME_NOW = (1 << 30) - 1  # what the C library says for "now"
KINDS = ("plain", "nocase", "lower", "short", "nosymlink")


class PassThrough(mfusepy.Operations):  # type: ignore[misc,unused-ignore]
    use_ns = True

    def __init__(self, kind: str, backing: str) -> None:
        self._kind = kind
        self._backing = backing

    def _real(self, path: str) -> str:
        parts = [part for part in path.split("/") if part]
        if self._kind == "short" and any(len(part) > 143 for part in parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if self._kind == "lower":
            parts = [part.lower() for part in parts]
        real = self._backing
        for part in parts:
            if self._kind == "nocase" and os.path.isdir(real):
                part = next((name for name in os.listdir(real) if name.lower() == part.lower()), part)
            real = f"{real}/{part}"
        return real

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._real(path))
        keys = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")
        times = {key: getattr(found, f"{key}_ns") for key in ("st_atime", "st_mtime", "st_ctime")}
        return {key: getattr(found, key) for key in keys} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real(path))]

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._real(path), mode)
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._real(path))
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags & ~(os.O_CREAT | os.O_EXCL))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._real(path), length)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def fsync(self, path: str, datasync: bool, fh: int) -> int:
        os.fsync(fh)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._real(path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._real(old), self._real(new))
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._real(source), self._real(target))
        return 0

    def symlink(self, target: str, source: str) -> int:
        if self._kind == "nosymlink":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        os.symlink(source, self._real(target))
        return 0

    def readlink(self, path: str) -> str:
        return os.readlink(self._real(path))

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._real(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self._real(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        now = time.time_ns()
        asked = times or (UTIME_NOW, UTIME_NOW)
        os.utime(self._real(path), ns=(now if asked[0] == UTIME_NOW else asked[0],
                                       now if asked[1] == UTIME_NOW else asked[1]))  # fmt: skip
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._backing)
        keys = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag", "f_frsize")
        return {key: getattr(found, key) for key in keys} | {"f_namemax": 255}


if __name__ == "__main__":
    kind, backing, mountpoint = sys.argv[1:]
    assert kind in KINDS, kind
    # Without hard_remove libfuse moves an open file aside before it is replaced: its name is missing for a moment.
    mfusepy.FUSE(PassThrough(kind, backing), mountpoint, foreground=True, nothreads=True, hard_remove=True)
