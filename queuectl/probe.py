"""What a file system does, tried out under the spool itself: each call that queuectl counts on, and what it answers.

Owns .doctor/ in the spool, where each prober has a directory of its own, and what is made there. It stands beside
disk.py because it makes the bare calls whose answers disk.py relies on: through disk.py, which mends lost replies, a
wrong answer could not be seen. Touches nothing else of the spool, and never judges; doctor.py does.

When things go wrong: what a file system does wrong is the answer, one phrase, "" if all is well. An OSError that says
nothing of the question (a full disk) goes to the caller. What a prober leaves behind when it is killed is removed by a
later one, after an hour.

It is long because it is a list: one question after the other, and none needs the next.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Any

from queuectl.disk import token

MEETING = ".doctor"
LONGEST_NAME = 255  # bytes: a record's name may be so long (core/names.py)
PROBERS = 4  # threads that try for the same names
NAMES = 50  # that they try for
ABANDONED = 3600.0  # seconds after which what lies in .doctor/ is nobody's


@contextmanager
def scratch(root: str, fs: Any = os) -> Iterator[Scratch]:
    """A directory of one's own under `root`, gone at the end. OSError if it cannot be made."""
    meeting = os.path.join(root, MEETING)
    mode = 0o2770 if fs.stat(root).st_mode & 0o020 else 0o700
    _sweep(meeting, fs)
    place = os.path.join(meeting, token())
    for last_try in (False, False, True):
        try:
            _make(meeting, mode, fs)
            _make(place, mode, fs)
            break
        except FileNotFoundError:  # whoever was there before us has just removed it
            if last_try:
                raise
    try:
        yield Scratch(place, mode & 0o666, fs)
    finally:
        _remove_tree(place, fs)
        try:
            fs.rmdir(meeting)
        except OSError:  # somebody else is at it
            pass


class Scratch:
    """A place to try things. Each `try_` gives what is wrong, or ""; each `time_` gives seconds."""

    def __init__(self, place: str, mode: int, fs: Any) -> None:
        self.place = place
        self.name = os.path.basename(place)
        self.meeting = os.path.dirname(place)
        self._mode = mode
        self._fs = fs

    def path(self, *names: str) -> str:
        return os.path.join(self.place, *names)

    # -- names ------------------------------------------------------------------------------------------------

    def try_names(self) -> str:
        """Whether names are kept letter for letter, as long as queuectl makes them, and told apart by their case."""
        room = self._directory("names")
        for length in (60, LONGEST_NAME):
            name = "Aa.p-9.n+_@=".ljust(length, "x")
            try:
                self._write(f"{room}/{name}", b"")
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                    raise
                return f"it takes no name such as {name}" if length < LONGEST_NAME else (
                    f"it takes no names of {LONGEST_NAME} letters")
            if name not in self._fs.listdir(room):
                return "it changes names: a file is listed under another name than it was given"
            if self._exists(f"{room}/{name.swapcase()}"):
                return "it takes capital and small letters for the same"
        return ""

    # -- answers ----------------------------------------------------------------------------------------------

    def try_exclusive_create(self) -> str:
        """Whether of several who create one name only one is told that he has."""
        room = self._directory("create")

        def create(name: str) -> bool:
            try:
                self._write(f"{room}/{name}", b"")
                return True
            except FileExistsError:
                return False

        return self._race(create, "created")

    def try_symlink(self) -> str:
        """The same for symbolic links, which reserve ids."""
        room = self._directory("symlink")

        def reserve(name: str) -> bool:
            try:
                self._fs.symlink("owner", f"{room}/{name}")
                return bool(self._fs.readlink(f"{room}/{name}") == "owner")
            except FileExistsError:
                return False

        return self.try_one_symlink() or self._race(reserve, "reserved")

    def try_one_symlink(self) -> str:
        """Whether there are symbolic links at all."""
        try:
            self._fs.symlink("owner", self.path("link"))
            return "" if self._fs.readlink(self.path("link")) == "owner" else "a symbolic link leads somewhere else"
        except OSError as error:
            return _unsupported(error, "it has no symbolic links")

    def try_rename(self) -> str:
        """Whether of several who rename one file only one is told that he has, and the others that it is gone."""
        room = self._directory("rename")
        for name in _names():
            self._write(f"{room}/{name}", b"")

        def claim(name: str) -> bool:
            try:
                self._fs.rename(f"{room}/{name}", f"{room}/{name}@{threading.get_ident()}")
                return True
            except FileNotFoundError:
                return False

        return self._race(claim, "renamed")

    def try_replace(self) -> str:
        """Whether a name that is replaced is there at every moment, with its old content or its new."""
        room = self._directory("replace")
        self._write(f"{room}/target", b"0")
        missing, ended = list[str](), threading.Event()

        def look() -> None:
            while not ended.is_set():
                try:
                    if self._read(f"{room}/target") == b"":
                        missing.append("empty")
                except OSError as error:  # ENOENT; FUSE says ESTALE
                    missing.append(f"missing ({error.strerror})")

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for number in range(NAMES):
                self._write(f"{room}/source", b"1")
                self._fs.rename(f"{room}/source", f"{room}/target")
                if self._exists(f"{room}/source"):
                    return f"after rename number {number} the old name was still there"
        finally:
            ended.set()
            looking.join()
        return f"a name was {missing[0]} for a moment while it was replaced" if missing else ""

    def try_link(self) -> str:
        """Whether there are hard links, and a link replaces nothing."""
        room = self._directory("links")
        self._write(f"{room}/one", b"1")
        self._write(f"{room}/two", b"2")
        try:
            self._fs.link(f"{room}/one", f"{room}/three")
        except OSError as error:
            return _unsupported(error, "it has no hard links")
        try:
            self._fs.link(f"{room}/one", f"{room}/two")
            return "a hard link replaced a file that was there"
        except FileExistsError:
            pass
        counted = self._fs.stat(f"{room}/one").st_nlink == 2
        return "" if counted else "it doesn't count a file's names"

    def try_flock(self) -> str:
        """Whether a lock that one descriptor holds is refused to another."""
        path = self.path("lock")
        self._write(path, b"")
        ours, theirs = self._fs.open(path, os.O_RDWR), self._fs.open(path, os.O_RDWR)
        try:
            flock(ours, LOCK_EX | LOCK_NB)
            try:
                flock(theirs, LOCK_EX | LOCK_NB)
                return "two got the same lock"
            except BlockingIOError:
                return ""
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return f"there are no locks ({error.strerror})"
            raise
        finally:
            self._fs.close(ours)
            self._fs.close(theirs)

    # -- times ------------------------------------------------------------------------------------------------

    def time_sync(self) -> tuple[float, float | None]:
        """How long a file's sync takes, and its directory's; None if directories cannot be synced."""
        room = self._directory("sync")
        self._write(f"{room}/file", b"x" * 4096)
        file = self._time_fsync(f"{room}/file", os.O_WRONLY)
        try:
            return file, self._time_fsync(room, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return file, None

    def _time_fsync(self, path: str, flags: int) -> float:
        fd = self._fs.open(path, flags)
        try:
            began = time.monotonic()
            self._fs.fsync(fd)
            return time.monotonic() - began
        finally:
            self._fs.close(fd)

    def clock_offset(self) -> int:
        """How far the file system's clock is ahead of this host's, in nanoseconds. The best of three: what a slow
        answer adds is no clock's fault."""
        fd = self._open("clock")
        try:
            found = []
            for _ in range(3):
                before = time.time_ns()
                self._fs.utime(fd)
                after = time.time_ns()
                modified: int = self._fs.fstat(fd).st_mtime_ns
                found.append((after - before, modified - (before + after) // 2))
            return min(found)[1]
        finally:
            self._fs.close(fd)

    # -- what two hosts do to each other (peer.py) ------------------------------------------------------------

    def put(self, name: str, data: bytes = b"") -> None:
        """A new file, complete when it is seen: written beside, and renamed."""
        self._write(self.path("draft"), data)
        self._fs.rename(self.path("draft"), self.path(name))

    def rewrite(self, name: str, data: bytes) -> None:
        """New content, in place: what a heartbeat is."""
        fd = self._open(name)
        try:
            self._fs.write(fd, data)
            self._fs.utime(fd)
        finally:
            self._fs.close(fd)

    def stir(self) -> None:
        """Touch the directories. On NFS 3 a listing that was made between two changes in one tick of the server's clock
        looks like the latest one, and stays in the other host's cache (docs/filesystems.md)."""
        for path in (self.place, self.meeting):
            try:
                self._fs.utime(path)
            except PermissionError:  # another user's, in a group spool
                pass

    def make(self, *names: str) -> None:
        for name in names:
            self._directory(name)

    def grab(self, source: str, target: str) -> bool:
        """A claim by the rule R3: after ENOENT one's own name is looked for."""
        try:
            self._fs.rename(source, target)
            return True
        except FileNotFoundError:
            return self._exists(target)

    def hold_lock(self) -> int:
        """A descriptor that holds the lock of this place, for others to try."""
        fd = self._open("lock")
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except OSError:
            self._fs.close(fd)
            raise
        return fd

    # -- small things -----------------------------------------------------------------------------------------

    def _race(self, attempt: Callable[[str], bool], done: str) -> str:
        """Several threads try for one name in the same moment, and for the next; what came out wrong."""
        won: list[str] = []
        errors: list[OSError] = []
        gate = threading.Barrier(PROBERS)

        def run() -> None:
            for name in names:
                try:
                    gate.wait()
                    if attempt(name):
                        won.append(name)
                except OSError as error:
                    errors.append(error)
                    gate.abort()
                except threading.BrokenBarrierError:
                    return

        names = _names()
        threads = [threading.Thread(target=run) for _ in range(PROBERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        if len(won) > len(set(won)):
            return f"{len(won) - len(set(won))} of {len(names)} names were {done} by two at once"
        missing = len(names) - len(won)
        return f"{missing} of {len(names)} names were {done} by nobody, though they were there" if missing else ""

    def _directory(self, name: str) -> str:
        path = self.path(name)
        _make(path, 0o2770 if self._mode & 0o020 else 0o700, self._fs)
        return path

    def _write(self, path: str, data: bytes) -> None:
        fd = self._fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        try:
            self._share(fd)
            if data:
                self._fs.write(fd, data)
        finally:
            self._fs.close(fd)

    def _open(self, name: str) -> int:
        """A descriptor to read and write a file of ours, made if it isn't there."""
        fd: int = self._fs.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        self._share(fd)
        return fd

    def _share(self, fd: int) -> None:
        if self._mode & 0o020:  # a group spool: the others must read it, whatever the umask is
            self._fs.fchmod(fd, self._mode)

    def _read(self, path: str) -> bytes:
        fd = self._fs.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data: bytes = self._fs.read(fd, 4096)
            return data
        finally:
            self._fs.close(fd)

    def _exists(self, path: str) -> bool:
        try:
            self._fs.lstat(path)
            return True
        except OSError:
            return False


def _names() -> list[str]:
    return [f"name-{number}" for number in range(NAMES)]


def _unsupported(error: OSError, what: str) -> str:
    if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
        return f"{what} ({error.strerror})"
    raise error


def _make(path: str, mode: int, fs: Any) -> None:
    try:
        fs.mkdir(path, mode)
        if mode & 0o020:
            fs.chmod(path, mode)
    except FileExistsError:
        pass


def _sweep(meeting: str, fs: Any) -> None:
    """Remove what killed probers left behind."""
    try:
        for name in fs.listdir(meeting):
            path = os.path.join(meeting, name)
            if time.time() - fs.lstat(path).st_mtime > ABANDONED:
                _remove_tree(path, fs)
    except OSError:
        pass


def _remove_tree(path: str, fs: Any) -> None:
    """Remove all that is ours. Errors are left: a later prober sweeps."""
    try:
        for name in fs.listdir(path):
            inner = os.path.join(path, name)
            try:
                fs.unlink(inner)
            except (IsADirectoryError, PermissionError):  # Linux says EISDIR, POSIX allows EPERM
                _remove_tree(inner, fs)
        fs.rmdir(path)
    except OSError:
        pass
