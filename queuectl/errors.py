"""The exceptions of queuectl; each class has its exit code.

    QueuectlError
    ├── UsageError      2   the command line, or a value on it
    │   └── BadJob      2   a job that cannot be accepted; names the member
    ├── NoSuchJob       1   a negative answer
    ├── SpoolError      3   the environment: a path, an errno, and what to do
    └── ConfigError     4   config.toml, or a setting

A lost race is a normal return value, never an exception. A bug of ours is an AssertionError and is never
caught. The message of every class is one sentence (or two) for the user; the second says what to do next.
"""

from __future__ import annotations

import os

OK = 0
NEGATIVE = 1
USAGE = 2
SPOOL = 3
CONFIG = 4
TIMED_OUT = 124  # as timeout(1) of GNU coreutils


class QueuectlError(Exception):
    """Any error that is told to the user in one sentence. `exit_code` is what the command line ends with."""

    exit_code = NEGATIVE


class UsageError(QueuectlError):
    """The command line was not understood, or a value on it is not acceptable."""

    exit_code = USAGE


class BadJob(UsageError):
    """A job that cannot be accepted. `member` names the JSON member at fault, or is "" for the whole."""

    def __init__(self, member: str, why: str) -> None:
        name = member if member.isprintable() and len(member) <= 60 else cut(member)
        super().__init__(f"{name}: {why}" if member else why)
        self.member = member
        self.why = why


class IdTaken(BadJob):
    """The id chosen for a job already belongs to another one."""

    def __init__(self, job_id: str) -> None:
        super().__init__("id", f"a job named {job_id} exists already; choose another id, or leave it out")
        self.job_id = job_id
        self.file = ""  # the name in pending/ of the file that asks for it, if it is one


class NoSuchJob(QueuectlError):
    """There is no job with that id in the spool."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r} in this spool. See `queuectl list`.")


class SpoolError(QueuectlError):
    """The environment is broken: `path` is where, `errno` is what the system said (0 if it said nothing)."""

    exit_code = SPOOL

    def __init__(self, message: str, *, path: str = "", errno: int = 0) -> None:
        super().__init__(message)
        self.path = path
        self.errno = errno

    @property
    def is_of_one_file(self) -> bool:
        """Whether it may concern this file alone (another user's; immutable; a bad block; mounted): the rest goes
        on."""
        import errno

        return self.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.EBUSY)

    @property
    def is_forbidden(self) -> bool:
        """Whether it is a file that we may not read or move however often we try (another user's; immutable; mounted),
        and nothing was done."""
        import errno

        return self.errno in (errno.EACCES, errno.EPERM, errno.EBUSY)

    @classmethod
    def of(cls, error: OSError, doing: str, path: str = "", remedy: str = "") -> SpoolError:
        """The SpoolError for an OSError met while `doing` something (a verb phrase: "write the job")."""
        path = path or os.fsdecode(error.filename or "")
        why = error.strerror or str(error)
        remedy = remedy or _REMEDIES.get(error.errno or 0, "Run `queuectl help operations` for what to check.")
        return cls(f"Could not {doing}: {path}: {why}. {remedy}", path=path, errno=error.errno or 0)


def few_threads() -> SpoolError:
    """The SpoolError for a thread that cannot be started, of which Python says no more than RuntimeError."""
    import errno

    return SpoolError("Could not start a thread: this user may have no more processes. Raise `ulimit -u`.",
                      errno=errno.EAGAIN)  # fmt: skip


class ConfigError(QueuectlError):
    """A setting, or config.toml as a whole, cannot be used."""

    exit_code = CONFIG


def cut(value: object) -> str:
    """A value as messages show it: ASCII without control characters, which could mislead a terminal, and not long."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _remedies() -> dict[int, str]:
    import errno as e

    return {
        e.ENOSPC: "The disk, or its inodes, are used up: make room, for example with `queuectl prune --older-than 1d`.",
        e.EDQUOT: "The quota is used up: make room, for example with `queuectl prune --older-than 1d`.",
        e.EROFS: "The file system is read-only: see why in dmesg, and mount it for writing.",
        e.EACCES: "Check who owns the spool and its modes (a private spool is 0700).",
        e.EPERM: "Check who owns the spool and its modes (a private spool is 0700).",
        e.EMFILE: "Too many open files: raise `ulimit -n`.",
        e.ENFILE: "Too many open files on this system: raise fs.file-max.",
        e.EIO: "The disk reports an error: see dmesg.",
        e.ESTALE: "The network file system lost the file: check the mount, then try again.",
        e.EXDEV: "The directories of a spool must lie in one file system.",
        e.ENOENT: "If the spool was moved or unmounted, name it with --spool DIR; `queuectl init DIR` makes one.",
        e.ENOTDIR: "Name a directory with --spool DIR; `queuectl init DIR` makes a spool.",
    }


_REMEDIES = _remedies()
