"""Making a spool: its directories, modes and identity.

Owns `queuectl init` and the making of a spool that isn't there yet. A directory that holds something else is refused,
an existing spool is only completed. Two who make one at once agree on it. When things go wrong: SpoolError, and what
was made so far is completed by the next one.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from queuectl.core.states import STATES
from queuectl.disk import DIRECTORIES, LAYOUT, NEW, TMP, check_tree, not_readable, token
from queuectl.errors import SpoolError, cut
from queuectl.probe import scratch


def initialise(root: str, *, group: int | None = None, fs: Any = os) -> None:
    """Make a spool, or complete one. `group` is the id of a group whose members share it (2770). SpoolError.

    A directory that becomes a spool is 0700 (2770 for a group) whatever the umask is, and so are the parents that it
    needs; a spool that is there keeps its modes unless `group` is given (or one of a group's directories is closed to
    it). A directory that holds something else is left alone, and so is another user's: what root made there would be
    root's, and to give it away would be a way to have anything given away (a link in its place).
    """
    try:
        made = not os.path.isdir(root)
        if made:
            _make_directories(root, fs)
        else:
            _check_theirs(root)
        if made or not os.path.exists(os.path.join(root, ".id")):
            _check_unused(root)
            _set_mode(root, group)
            _check_names(root, fs)
        elif group is not None:
            _set_mode(root, group)
        shared = bool(os.stat(root).st_mode & stat.S_IWGRP)
        for name in DIRECTORIES:
            path = os.path.join(root, name)
            try:
                fs.mkdir(path, 0o2770 if shared else 0o700)
                if shared:
                    os.chmod(path, 0o2770)
            except FileExistsError:
                if group is not None:
                    _set_mode(path, group)
                elif shared:
                    _complete_mode(path)
        check_tree(root, fs)
        _write_identity(root, shared, fs)
        if group is not None:
            _share_files(root, group)
    except OSError as error:
        raise SpoolError.of(error, "make the spool", os.fsdecode(error.filename or root)) from None


def _check_theirs(root: str) -> None:
    """Refuse to make anything as root in another user's private directory."""
    found = os.stat(root)
    if os.geteuid() == 0 and found.st_uid != 0 and not found.st_mode & stat.S_IWGRP:
        raise not_readable(root, found.st_uid, 0)


def _make_directories(path: str, fs: Any) -> None:
    """Make a directory and the parents that it needs, for its owner only. Another may do so at the same moment."""
    parent = os.path.dirname(path)
    if parent != path and not os.path.isdir(parent):
        _make_directories(parent, fs)
    try:
        fs.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _check_unused(root: str) -> None:
    """Refuse a directory that holds something else: `--spool /etc` by mistake must not make /etc private."""
    names = os.listdir(root)
    strange = [name for name in names if not name.startswith((".", "config.toml", "README", "lost+found"))]
    if strange and not set(names) & set(STATES):
        raise SpoolError(
            f"{root} is no spool, and it isn't empty: it holds {cut(min(strange))}. Name an empty or a new directory.",
            path=root, errno=errno.ENOTEMPTY,
        )


def _check_names(root: str, fs: Any) -> None:
    """Refuse a file system that cannot keep names: there, jobs would get lost in the middle of their way."""
    with scratch(root, fs) as place:
        problem = place.try_names() or place.try_one_symlink()
    if problem:
        raise SpoolError(f"No spool can lie at {root}: {problem}. Name a directory on another file system.", path=root,
                         errno=errno.EOPNOTSUPP)


def _write_identity(root: str, shared: bool, fs: Any) -> None:
    path = os.path.join(root, ".id")
    if os.path.exists(path):
        return
    draft = os.path.join(root, TMP, f"{token()}.0=draft")
    try:
        fd = fs.open(draft, NEW, 0o660 if shared else 0o600)
        try:
            if shared:
                fs.fchmod(fd, 0o660)
            fs.write(fd, f"queuectl-{LAYOUT} {token()}\n".encode())
            fs.fsync(fd)
        finally:
            fs.close(fd)
        try:
            fs.link(draft, path)  # two who make one spool at once agree on one identity
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            fs.rename(draft, path)  # a file system without hard links
    finally:
        try:
            fs.unlink(draft)
        except OSError:
            pass


def _complete_mode(path: str) -> None:
    """A directory of a group's spool that was made, but not opened to the group any more (a crash, a lost reply)."""
    found = os.stat(path)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o2770 != 0o2770:
        os.chmod(path, 0o2770)


def _share_files(root: str, group: int) -> None:
    """A private spool becomes a group's: its members must be able to read and write what lies there already."""
    for directory in (".", *DIRECTORIES):
        with os.scandir(os.path.join(root, directory)) as found:
            for item in found:
                try:
                    known = item.stat(follow_symlinks=False)
                    if stat.S_ISREG(known.st_mode) and known.st_nlink == 1 and known.st_uid == os.geteuid():
                        os.chown(item.path, -1, group, follow_symlinks=False)
                        os.chmod(item.path, stat.S_IMODE(known.st_mode) | 0o060)
                except FileNotFoundError:
                    pass  # it has just moved on


def _set_mode(path: str, group: int | None) -> None:
    if group is not None:
        os.chown(path, -1, group)
    if os.stat(path).st_uid == os.geteuid():
        os.chmod(path, 0o2770 if group is not None else 0o700)
