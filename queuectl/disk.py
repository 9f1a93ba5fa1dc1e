"""The disk under a spool: where it is, whether it can be trusted, and each system call that is made on it.

Owns the paths of the directories, reading, writing, moving, removing and syncing, and what each of these means when it
fails: a lost race is False or None, a file that is no job is BadJob, a broken environment is SpoolError with path and
errno. Knows nothing of claims, attempts or leases; spool.py, built on it, does. Together with tree.py, which makes
spools, these three are the only code that changes anything under a spool; probe.py
tries things out beside them, in .doctor/ alone.

When things go wrong: a rename that says ENOENT is looked into before it is believed (R3); a directory that somebody
removed is made again if the spool is still itself (`mend_tree`); a failed write leaves nothing behind.

It is long because each call stands once, with all that may come of it.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from queuectl.core import job as jobs
from queuectl.core.states import PENDING, STATES
from queuectl.core.times import say_duration
from queuectl.errors import BadJob, SpoolError, UsageError, cut
from queuectl.mounts import Mount, mount_of

LAYOUT = 1
TMP, IDS, LOGS, WORKERS = ".tmp", ".ids", "logs", "workers"
DIRECTORIES = (*STATES, LOGS, WORKERS, TMP, IDS)

SLOW_ANSWER = 1_000_000_000  # nanoseconds; what took longer (a server was away) tells little of the server's clock
CLOCK_AGE = 60_000_000_000  # nanoseconds after which the server's clock is asked again
FREE_AGE = 1.0  # seconds for which the free space of a network file system is known

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FEW_INODES = 100  # that are free; below that no job is started
MANY = 16  # files from which one syncfs(2) for the whole file system is cheaper than a sync for each
STEP = 100_000_000  # nanoseconds: more than a server's clock for files goes in one step (10 ms), and two clocks differ
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


class Disk:
    """A spool directory as files: `root` is its path, `identity` what tells it from another one at the same place,
    `group` whether a group shares it. `fs` executes the system calls: `os`, unless a test lies."""

    identity: str
    group: bool

    def __init__(self, root: str, *, durability: str | None, create: bool, fs: Any) -> None:
        self.root = root
        self._fs = fs
        self._durability = durability
        self._new_names()
        self._in = {name: os.path.join(self.root, name) + "/" for name in DIRECTORIES}
        self._asked: int | None = None  # when the server's clock was asked, on the monotonic clock
        self._ahead = 0  # by how many nanoseconds it is ahead of that
        self._free: tuple[int, int] | None = None
        self._free_at = 0.0
        self._open(create)

    def _open(self, create: bool) -> None:
        try:
            made = self._fs.stat(self.root)
        except FileNotFoundError:
            if not create:
                raise SpoolError(
                    f"There is no spool at {self.root}. `queuectl init {self.root}` makes one.",
                    path=self.root, errno=errno.ENOENT,
                ) from None
            self._make()
            made = self._fs.stat(self.root)
        except OSError as error:
            raise SpoolError.of(error, "open the spool", self.root) from None
        if not stat.S_ISDIR(made.st_mode):
            raise SpoolError(f"{self.root} is no directory. Name one with --spool DIR.", path=self.root)
        check_safe(self.root, made)
        self._owner = made.st_uid
        self._mapped = -1  # a user whose files a server makes the owner's
        self.group = bool(made.st_mode & stat.S_IWGRP)
        self._mode = 0o660 if self.group else 0o600
        try:
            self.identity = self.read_identity()
        except FileNotFoundError:
            if not create:
                raise SpoolError(
                    f"{self.root} is no spool: it has no .id. If it is a mount point, mount it;"
                    f" `queuectl init {self.root}` makes it one.", path=self.root, errno=errno.ENOENT,
                ) from None
            self._make()
            self.identity = self.read_identity()
        except OSError as error:
            raise SpoolError.of(error, "read the spool's identity", os.path.join(self.root, ".id")) from None
        if not check_tree(self.root, self._fs):
            self._make()

    def _make(self) -> None:
        """Make the spool, or what is missing of it (spool.py says how)."""
        raise NotImplementedError

    def read_identity(self) -> str:
        """What .id says: a random text that tells this spool from an empty mount point. OSError if it is gone."""
        with open(os.path.join(self.root, ".id"), encoding="utf-8", errors="replace") as file:
            words = file.read().split()
        if not words or words[0] != f"queuectl-{LAYOUT}":
            raise SpoolError(
                f"{self.root} has another layout ({cut(' '.join(words))}); this queuectl knows layout {LAYOUT}. Use the"
                " version of queuectl that has made it." if words else
                f"{self.root}.id is empty: a disk error, or somebody has emptied it. Stop the workers, remove it, and"
                f" run `queuectl init {self.root}`: the jobs stay.",
                path=self.root,
            )  # fmt: skip
        return words[-1]

    def mend_tree(self) -> None:
        """Make directories again that somebody has removed. SpoolError if the spool itself is gone or another."""
        self.check_identity()
        self._make()

    def check_identity(self) -> None:
        """SpoolError if what lies here is not the spool that was opened: then a file that is missing means nothing."""
        try:
            same = self.read_identity() == self.identity
        except OSError:
            same = False
        if not same:
            raise SpoolError(
                f"{self.root} is not the spool it was: it was moved, removed or unmounted. Bring it back.",
                path=self.root, errno=errno.ENOENT,
            )

    def dir(self, name: str) -> str:
        """The path of one of the spool's directories, with a trailing slash."""
        return self._in[name]

    @property
    def config_path(self) -> str:
        """Where the settings lie; the file need not be there."""
        return os.path.join(self.root, "config.toml")

    @property
    def _to_read(self) -> int:
        """How a file is opened to be read. O_DIRECT tells an NFS 4 server not to lend it to this host (a delegation):
        whoever renames or removes it would wait until it is given back; by a host that is cut off, as long as the
        server's leases last (90 s)."""
        return READ | os.O_DIRECT if self.mount.nfs else READ

    @cached_property
    def mount(self) -> Mount:
        """What the spool lies on."""
        return mount_of(self.root)

    @property
    def network(self) -> bool:
        """Whether other hosts may share the spool. $QUEUECTL_PRETEND_HOST says so, for tests."""
        return "QUEUECTL_PRETEND_HOST" in os.environ or self.mount.network

    def mode(self, poll_interval: float) -> str:
        """How workers learn of changes, and why, in words. `poll_interval` is the setting, in seconds."""
        if not self.network:
            return "woken by inotify"
        return f"{self.mount.kind}: listed every {say_duration(poll_interval)}"

    def clock(self) -> int:
        """Nanoseconds UTC; on a network file system by the server's clock, so that hosts whose clocks differ agree on
        what is due (R11). It is learned from the mtime of a new file, to the precision of a round trip; where no file
        can be made, this host's clock must do."""
        if not self.network:
            return time.time_ns()
        now = time.monotonic_ns()
        if self._asked is None or now - self._asked > CLOCK_AGE:
            self._asked, self._ahead = now, self._ask_the_time()
        return time.monotonic_ns() + self._ahead

    def _ask_the_time(self) -> int:
        """By how many nanoseconds the server's clock is ahead of our monotonic one."""
        own = time.time_ns() - time.monotonic_ns()
        asked: list[tuple[int, int]] = []  # how long it took, and what was learned
        while len(asked) < 3 and not (asked and asked[-1][0] < SLOW_ANSWER):
            try:
                before = time.monotonic_ns()
                draft = self._write_draft(b"")
                after = time.monotonic_ns()
            except SpoolError:
                return own
            try:
                modified: int = self._fs.lstat(draft).st_mtime_ns
            except OSError:
                return own
            finally:
                self._remove(draft)
            asked.append((after - before, modified - (before + after) // 2))
        return min(asked)[1]

    @property
    def durable(self) -> bool:
        """Whether accepted jobs and outcomes are synced to the disk."""
        if self._durability is None and not self._has_settings():
            self._durability = "fsync"
        elif self._durability is None:
            from queuectl.config import durability_of

            self._durability = durability_of(self.config_path)
        return self._durability != "none"

    def _has_settings(self) -> bool:
        """Whether anything could say another durability than the default: else `enqueue` needs no config.py, which
        takes it a thirtieth of its time."""
        return "QUEUECTL_DURABILITY" in os.environ or os.path.exists(self.config_path)

    def set_durability(self, durability: str) -> None:
        """Sync from now on as the setting says: "fsync" or "none"."""
        self._durability = durability

    # -- look -------------------------------------------------------------------------------------------------

    def names(self, directory: str) -> list[str]:
        """The names in one of the spool's directories. SpoolError if it cannot be listed."""
        try:
            listed: list[str] = self._fs.listdir(self._in[directory])
        except OSError as error:
            raise SpoolError.of(error, "list the spool", self._in[directory]) from None
        return listed

    def scan(self, directory: str) -> Iterator[str]:
        """The names in one of the spool's directories, one by one: a million cost no memory."""
        try:
            with self._fs.scandir(self._in[directory]) as found:
                for item in found:
                    yield item.name
        except OSError as error:
            raise SpoolError.of(error, "list the spool", self._in[directory]) from None

    def is_in_doubt(self, directory: str, began: int) -> bool:
        """Whether a listing of a directory that began at `began` (nanoseconds UTC, the server's clock) may stay in this
        client's cache although a name was added behind it. On NFS 3 a client tells by the directory's time whether its
        listing is still the latest, and two changes may have one time (docs/filesystems.md)."""
        mount = self.mount
        if not mount.nfs or not any(option.startswith("vers=3") for option in mount.options):
            return False
        try:
            modified: int = self._fs.stat(self._in[directory]).st_mtime_ns
        except OSError as error:
            raise SpoolError.of(error, "look at the spool", self._in[directory]) from None
        return modified > began - STEP

    def renew_listing(self, directory: str) -> bool:
        """Change a directory's time, so that no host's listing from before is the latest any more. It is set to one in
        the past, which no later change can have: what is listed then is not in doubt again. False: another user has
        made the directory, and only he may do that; then `show_change` after a look, and look again later than a tick.
        SpoolError."""
        try:
            past = self._fs.stat(self._in[directory]).st_mtime_ns - 10 * STEP
            self._fs.utime(self._in[directory], ns=(past, past))
            return True
        except PermissionError:
            return False
        except OSError as error:
            raise SpoolError.of(error, "list the spool anew", self._in[directory]) from None

    def show_change(self, directory: str) -> None:
        """Set a directory's time to now: whoever may write into it may do that. SpoolError."""
        try:
            self._fs.utime(self._in[directory])
        except OSError as error:
            raise SpoolError.of(error, "list the spool anew", self._in[directory]) from None

    def read(self, path: str, largest: int = jobs.LARGEST_RECORD) -> bytes | None:
        """The bytes of a job file; None if it is gone. Never blocks on a FIFO, never follows a link.

        BadJob if it is not a regular file with one name and of at most `largest` bytes; SpoolError if the disk fails.
        """
        for last_try in (False, False, True):
            try:
                fd = self._fs.open(path, self._to_read)
                try:
                    found = self._fs.fstat(fd)
                    if not found.st_nlink:
                        return None  # it was removed while it was opened
                    _check_regular(found, largest)
                    # A little more than it holds: a buffer of the most it may hold costs as much as all the rest.
                    data: bytes = self._fs.read(fd, found.st_size + 1)
                    while len(data) < found.st_size and (more := self._fs.read(fd, found.st_size - len(data))):
                        data += more  # a network file system may give less than was asked for
                    return data
                finally:
                    self._fs.close(fd)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise BadJob("", "a symbolic link is no job; put the file itself there") from None
                if error.errno in (errno.ENXIO, errno.ENODEV):
                    raise BadJob("", "a socket or device is no job; put a regular file there") from None
                if error.errno != errno.ESTALE or last_try:
                    raise SpoolError.of(error, "read the job", path) from None
        raise AssertionError("unreachable")

    def exists(self, directory: str, name: str) -> bool:
        """Whether the name is there, also on another host's word; what cannot be seen is not."""
        return self._exists(self._in[directory] + name)

    def _exists(self, path: str) -> bool:
        self._look_again(os.path.dirname(path))
        return self._is_there(path)

    def _is_there(self, path: str) -> bool:
        try:
            self._fs.lstat(path)
            return True
        except OSError:
            return False

    def _look_again(self, directory: str) -> None:
        """Have the cache of a network file system look at a directory anew. NFS shows a name that it has once looked up
        as it was then, there or not, for up to a minute; opening the directory ends that, and costs one question."""
        if self.network:
            try:
                self._fs.close(self._fs.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            except OSError:
                pass  # the look that follows tells

    def _age(self, path: str) -> float:
        """Seconds since a file was last touched. By its ctime: on NFS an exclusive create keeps its verifier in the
        mtime, which says any year, until the client's next request sets it (RFC 1813, 3.3.8; RFC 8881, 18.16.3)."""
        try:
            changed: int = self._fs.lstat(path).st_ctime_ns
        except OSError:
            return 0.0
        return (self.clock() - changed) / 1e9

    def free(self) -> tuple[int, int]:
        """Bytes and inodes that are free for us; inodes are -1 where the file system doesn't count them. On a network
        file system, where each look is a question to the server, it is at most a second old."""
        now = time.monotonic()
        if self._free is None or not self.network or now - self._free_at >= FREE_AGE:
            try:
                found = self._fs.statvfs(self.root)
            except OSError as error:
                raise SpoolError.of(error, "look at the free space", self.root) from None
            self._free_at = now
            self._free = found.f_bavail * found.f_frsize, found.f_favail if found.f_files else -1
        return self._free

    @property
    def is_read_only(self) -> bool:
        """Whether the file system is mounted read-only here. SpoolError."""
        try:
            return bool(self._fs.statvfs(self.root).f_flag & os.ST_RDONLY)
        except OSError as error:
            raise SpoolError.of(error, "look at the file system", self.root) from None

    def check_owner(self) -> None:
        """Refuse to run jobs from a spool that belongs to somebody else: its owner could run commands as us. A group
        spool's members trust each other. SpoolError."""
        owner, me = self._fs.stat(self.root).st_uid, os.geteuid()
        if owner not in (me, 0) and not self.group:
            raise SpoolError(
                f"{self.root} belongs to {_user(owner)}, who could run commands as {_user(me)}."
                f" Work as that user (`sudo -u`), or make it yours: `chown -R {me} {self.root}`.",
                path=self.root, errno=errno.EPERM,
            )  # fmt: skip

    def check_maker(self) -> None:
        """Refuse to leave in a private spool what its owner, as whom its workers run, could not read: root may write
        anywhere, and what it makes is root's. SpoolError."""
        if self.group or self._owner == 0 or os.geteuid() in (self._owner, self._mapped):
            return
        draft = self._write_draft(b"")  # whose it becomes is for the file system to say: a server may map users
        try:
            maker = self._fs.lstat(draft).st_uid
        except OSError as error:
            raise SpoolError.of(error, "write to the spool", draft) from None
        finally:
            self._remove(draft)
        self._owner = self._fs.stat(self.root).st_uid  # it may have been given to another meanwhile
        if maker != self._owner:
            raise not_readable(self.root, self._owner, maker)
        self._mapped = os.geteuid()

    def wrong_modes(self) -> Iterator[tuple[str, int, int, str]]:
        """The directories whose mode lets in others, or keeps out those who work here: path, mode, what it should be,
        and what is wrong with it. Files that somebody dropped into pending/ are as he made them."""
        right, outside = (0o2770, 0o007) if self.group else (0o700, 0o077)
        for directory in ("", *DIRECTORIES):
            path = self._in[directory] if directory else self.root
            mode = stat.S_IMODE(self._fs.stat(path).st_mode)
            if mode & outside:
                yield path, mode, right, "others may read or change it"
            elif ~mode & right & 0o770:
                yield path, mode, right, "the group cannot work in it" if self.group else "its owner cannot work in it"

    # -- change -----------------------------------------------------------------------------------------------

    def _new_names(self) -> None:
        self._drafts = itertools.count(1)  # threads share it
        self._process, self._pid = token(), os.getpid()

    def _draft_name(self) -> str:
        if self._pid != os.getpid():
            self._new_names()  # we are the child of a fork: the old ones are the parent's
        return f"{self._in[TMP]}{self._process}.{next(self._drafts)}=draft"

    def _write_draft(self, data: bytes) -> str:
        """A new file in .tmp/ with this content; its path. SpoolError, and then nothing is left behind."""
        while True:
            draft = self._draft_name()
            try:
                self._write_new(draft, data)
                return draft
            except FileExistsError:
                continue  # a network file system repeated the request; what it made is swept
            except SpoolError as error:  # the next try has another name; it is to be the same error, and said once
                tmp = self._in[TMP]
                raise SpoolError(str(error).replace(draft, tmp), path=tmp, errno=error.errno) from None

    def _write_and_move(self, data: bytes, target: str) -> bool:
        """Write a draft and rename it. SpoolError, and then nothing is left behind."""
        draft = self._write_draft(data)
        try:
            return self._move(draft, target)
        except SpoolError:
            self._remove(draft)
            raise

    def _create(self, path: str, flags: int) -> int:
        """A descriptor of a new file. If somebody has removed its directory, that is made again. OSError, SpoolError
        if the spool is gone."""
        try:
            fd: int = self._fs.open(path, flags, self._mode)
        except FileNotFoundError:
            self.mend_tree()
            fd = self._fs.open(path, flags, self._mode)
        return fd

    def _write_new(self, path: str, data: bytes, flags: int = NEW) -> None:
        """Create a file with this content. FileExistsError; SpoolError, and then nothing is left behind."""
        try:
            fd = self._create(path, flags)
        except FileExistsError:
            raise
        except OSError as error:
            raise SpoolError.of(error, "write to the spool", path) from None
        try:
            try:
                self._give_to_group(fd)
                self._write_all(fd, data)
                self._sync_before_close(fd)
            finally:
                self._fs.close(fd)
        except OSError as error:
            self._remove(path)
            raise SpoolError.of(error, "write to the spool", path) from None

    def _write_all(self, fd: int, data: bytes) -> None:
        written = self._fs.write(fd, data)
        while written < len(data):
            written += self._fs.write(fd, data[written:])

    def _give_to_group(self, fd: int) -> None:
        """In a group spool the members must be able to read and write, whatever the umask."""
        if self.group:
            self._fs.fchmod(fd, self._mode)

    def _move(self, source: str, target: str) -> bool:
        """One rename. True if the file is at `target`, a name that nobody else would give it; False if `source` was
        not there. After ENOENT it looks for the target: an NFS server that forgot its replies says ENOENT to a
        rename that it has done (R3). If the source is still there, the target's directory is not: it is made again."""
        for last_try in (False, False, True):
            try:
                self._fs.rename(source, target)
                return True
            except FileNotFoundError as error:
                if self._is_there(target):
                    return True
                if not self._is_there(source):
                    return False
                if last_try:
                    raise SpoolError.of(error, "move a job", target) from None
                self.mend_tree()
            except OSError as error:
                if error.errno != errno.ESTALE or last_try:
                    raise SpoolError.of(error, "move a job", source) from None
        raise AssertionError("unreachable")

    def _remove(self, path: str) -> bool:
        """Remove what nobody counts on. False if it is still there, or wasn't."""
        try:
            self._fs.unlink(path)
            return True
        except OSError:
            return False

    def _unlink(self, path: str) -> bool:
        """Remove what somebody asked to have removed. False if it wasn't there; SpoolError."""
        try:
            self._fs.unlink(path)
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SpoolError.of(error, "remove a file", path) from None

    def set_mode(self, path: str, mode: int) -> None:
        """Set a file's permission bits. SpoolError."""
        try:
            os.chmod(path, mode)
        except OSError as error:
            raise SpoolError.of(error, "set the mode", path) from None

    # -- sync -------------------------------------------------------------------------------------------------

    def sync(self, directory: str) -> None:
        """Sync one of the spool's directories, if durability asks for it. SpoolError; after that nothing may be
        called kept (a second fsync may say ok without having written: Rebello et al., ATC 2020)."""
        if self.durable:
            self._sync_directory(self._in[directory])

    def _sync_before_close(self, fd: int) -> None:
        """On NFS closing a file sends it to the server anyway, so it is synced then: to open it again for that would be
        two more questions."""
        if self.mount.nfs and self.durable:
            self._fs.fsync(fd)

    def _sync_directory(self, path: str) -> None:
        if self.mount.nfs:
            return  # a server has changed its disk before it answers (RFC 1813, 4.8; RFC 8881, 1.8.3)
        try:
            fd = self._fs.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._fs.fsync(fd)
            finally:
                self._fs.close(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some cannot sync directories; the doctor warns
                raise SpoolError.of(error, "sync the spool", path) from None

    def _sync_files(self, paths: list[str]) -> None:
        if not self.durable or self.mount.nfs:
            return
        if len(paths) == 1:
            self._sync_file(paths[0])
        elif len(paths) < MANY:
            self._sync_some(paths)
        else:
            self._sync_file_system()

    def _sync_some(self, paths: list[str]) -> None:
        """Sync each of these files. All are on their way to the disk before the first is waited for, which halves the
        time of eight."""
        for path in paths:
            self._start_writing(path)
        for path in paths:
            self._sync_file(path)

    def _start_writing(self, path: str) -> None:
        """Have the kernel begin to write a file, without waiting: sync_file_range(2). A hint; fsync decides."""
        import ctypes

        libc = ctypes.CDLL(None)
        if not hasattr(libc, "sync_file_range"):
            return
        try:
            fd = self._fs.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
        self._fs.close(fd)

    def _sync_file_system(self) -> None:
        import ctypes

        try:
            fd = self._fs.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SpoolError.of(error, "sync the spool", self.root) from None
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(fd):
                number = ctypes.get_errno()
                raise SpoolError.of(OSError(number, os.strerror(number)), "sync the spool", self.root)
        finally:
            self._fs.close(fd)

    def _sync_file(self, path: str) -> None:
        try:
            fd = self._fs.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._fs.fsync(fd)
            finally:
                self._fs.close(fd)
        except OSError as error:
            raise SpoolError.of(error, "sync the job", path) from None


def locate(explicit: str | None, environ: Mapping[str, str]) -> str:
    """Where the spool is: `--spool`, else $QUEUECTL_SPOOL, else ./spool where there is one, else
    $XDG_STATE_HOME/queuectl/spool."""
    if explicit is not None or environ.get("QUEUECTL_SPOOL"):
        path = explicit if explicit is not None else environ["QUEUECTL_SPOOL"]
        if not path:
            raise UsageError("--spool needs a directory.")
        return path
    # One that this user may not enter is told as that: his jobs must not go to another queue without a word.
    if os.path.isdir(os.path.join("spool", PENDING)) or (os.path.isdir("spool") and not os.access("spool", os.X_OK)):
        return "spool"
    state_home = environ.get("XDG_STATE_HOME") or os.path.join(
        environ.get("HOME") or os.path.expanduser("~"), ".local", "state"
    )
    return os.path.join(state_home, "queuectl", "spool")


def check_tree(root: str, fs: Any = os) -> bool:
    """Whether all directories of a spool are there. SpoolError if one of them could not be used or trusted."""
    enterable = fs.stat(root).st_mode & stat.S_IXOTH
    device: int | None = None
    complete = True
    for name in DIRECTORIES:
        path = os.path.join(root, name)
        try:
            found = fs.lstat(path)
        except FileNotFoundError:
            complete = False
            continue
        except OSError as error:
            raise SpoolError.of(error, "open the spool", path) from None
        if not stat.S_ISDIR(found.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no directory"
            raise SpoolError(f"{path} is {kind}; a spool's directories must be directories.", path=path,
                             errno=errno.ENOTDIR)
        if enterable and found.st_mode & stat.S_IWOTH:
            raise open_to_all(path)
        device = found.st_dev if device is None else device
        if found.st_dev != device:
            raise SpoolError(
                f"{path} lies on another file system than pending/: a rename cannot cross."
                " Put the whole spool on one file system.", path=path, errno=errno.EXDEV,
            )
    return complete


def check_safe(root: str, found: os.stat_result) -> None:
    """Refuse a spool that strangers may write: whoever writes into pending/ runs commands as the worker's user."""
    if found.st_mode & stat.S_IWOTH:
        if not os.path.lexists(os.path.join(root, ".id")):  # /tmp: what mends a spool would break a system
            raise SpoolError(f"Everybody may write to {root}, so it is no place for a spool. Name a directory of your"
                             " own.", path=root, errno=errno.EPERM)  # fmt: skip
        raise open_to_all(root)
    for parent in {os.path.dirname(root), os.path.dirname(os.path.realpath(root))}:
        while True:
            above = os.stat(parent)
            if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
                raise SpoolError(
                    f"Everybody may replace {root}, because {parent} is writable for all without the sticky bit."
                    f" `chmod o-w {parent}` (or +t) mends it.", path=parent, errno=errno.EPERM,
                )
            if parent == os.path.dirname(parent):
                break
            parent = os.path.dirname(parent)


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def not_readable(root: str, owner: int, maker: int) -> SpoolError:
    return SpoolError(
        f"{root} belongs to {_user(owner)}, who could not read what {_user(maker)} puts there. Do it as that user"
        " (`sudo -u`).", path=root, errno=errno.EPERM,
    )  # fmt: skip


def open_to_all(path: str) -> SpoolError:
    return SpoolError(
        f"Everybody may write to {path}, so everybody could run commands as you. `chmod o-w {path}` mends it.",
        path=path, errno=errno.EPERM,
    )


def _check_regular(found: os.stat_result, largest: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a FIFO, socket or device"
        raise BadJob("", f"{kind} is no job; put a regular file there")
    if found.st_nlink != 1:
        raise BadJob("", f"the file has {found.st_nlink} names (hard links), so another could change it; copy it")
    if found.st_size > largest:
        raise jobs.too_large(largest)


def token() -> str:
    """A random text of 10 letters and digits (50 bits), for names that must be unlike all others."""
    return base32(int.from_bytes(os.urandom(7), "big") & ((1 << 50) - 1), 10)


def base32(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, rest = divmod(number, 32)
        letters.append(ALPHABET[rest])
    return "".join(reversed(letters))
