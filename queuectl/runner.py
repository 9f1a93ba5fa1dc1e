"""One attempt: start its command, keep its output, end it at its deadline, make sure that nothing of it is left.

Owns the processes. The command runs in a session of its own, with stdin from /dev/null and its output straight into
logs/<id>.<attempt>.log. When the first process has ended, the rest of its group is killed, and what left the group
(setsid, a daemon) too: a job's processes end with the job. Never changes a job's state. It is long because the way of
an attempt's processes, from their start to the last that is left, should be read in one place.

When things go wrong: a command that cannot be started is an Outcome (127 not found, 126 not executable, or
UNSTARTABLE), as a shell would say; a host that cannot start anything now (no processes, memory, descriptors) raises
Busy, and the claim is given back uncounted. A process that hides whose it is, or that is another user's, holds no
outcome up (`settled_down`).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from array import array
from collections.abc import Callable
from fcntl import ioctl
from termios import FIONREAD

from queuectl import orphans
from queuectl.core.backoff import EXITED, LOST, SIGNALLED, TIMED_OUT, UNSTARTABLE, Outcome
from queuectl.core.job import Job
from queuectl.core.names import Claim
from queuectl.disk import LOGS
from queuectl.errors import SpoolError
from queuectl.spool import Spool

Say = Callable[[str, str], None]  # level, text

EXECUTING = 0.1  # seconds; an execve takes a thousandth of that, unless the program must be read from a slow disk
SPARE_LOGS = 32  # that are kept at least: several jobs of a slot may have ended, and not be settled yet
TERM_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
# What Python ignores, or nohup(1), a shell's background or any other parent has had ignored, and exec would pass on.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_BUSY = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Busy(Exception):
    """This host cannot start a process now; try again later."""


class Overdue(Exception):
    """The lease went stale while the attempt was being prepared: somebody else has its job, or will have it."""


class Attempt:
    """A running attempt. `began`, `ended` and `deadline` are seconds, monotonic."""

    __slots__ = (
        "began",
        "claim",
        "deadline",
        "ended",
        "job",
        "kill_at",
        "log",
        "log_fd",
        "number",
        "outcome",
        "pid",
        "pidfd",
        "printed",
        "reaped",
        "reason",
    )  # fmt: skip

    def __init__(self, claim: Claim, job: Job, number: int, log: str, log_fd: int) -> None:
        self.claim = claim
        self.job = job
        self.number = number
        self.log = log
        self.log_fd = log_fd
        self.began = time.monotonic()
        self.ended = 0.0
        self.deadline: float | None = None
        self.kill_at: float | None = None  # when SIGKILL follows the SIGTERM
        self.reason = ""  # why we are ending it: TIMED_OUT, CANCELLED, STOPPED, LOST
        self.pid = 0  # of its first process, which leads the group and the session
        self.pidfd = -1
        self.reaped = False
        self.printed = 0  # bytes, once it has ended
        self.outcome: Outcome | None = None


class Runner:
    """Starts and ends attempts. `now` arguments are seconds, monotonic. `is_overdue` says that nothing may be started
    any more (R8)."""

    def __init__(
        self, spool: Spool, environ: dict[str, str], say: Say = lambda *_: None,
        is_overdue: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._say = say
        self._is_overdue = is_overdue
        # As bytes: a job's text is UTF-8, whatever encoding this process's locale has.
        self._environ = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
        self._logs = os.path.join(os.path.realpath(spool.root), LOGS, "")  # as /proc gives it
        self._home, self.is_at_home = _open_home()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._spare_logs: list[tuple[str, int]] = []
        self.slots = 1  # how many attempts may run
        self._adopts = orphans.adopt_orphans()
        self._children = orphans.Children()
        self._is_short = False  # of descriptors: before the next job is started it is seen whether there is one
        # A process keeps its children over exec (a shell's script that becomes the worker): they, and what they start
        # in these sessions, are no job's, for a job has a session of its own and cannot join another.
        self._sessions = {orphans.session_of(pid) for pid in (os.getpid(), *self._children.pids())}
        self.running: dict[int, Attempt] = {}  # by pidfd
        # By process id: the claims that it may belong to, and when it was first seen.
        self._strays: dict[int, tuple[set[str], float]] = {}
        self._beyond: set[int] = set()  # strays that we may not kill: another user's
        self.has_strays = False  # whether some are waited for; ask `settled_down` again soon

    def start(self, claim: Claim, job: Job, default_timeout: float | None) -> Attempt:
        """Start a claimed job. If it could not be started, the attempt has its `outcome` already. Raises Busy, Overdue;
        SpoolError if the log cannot be opened."""
        number = job.attempt
        log = f"{claim.id}.{number}.log"
        attempt = Attempt(claim, job, number, log, self._open_log(log))
        env = self._environ | {name.encode(): value.encode() for name, value in job.env.items()}
        # By these its processes are found again (R8).
        env[b"QUEUECTL_SPOOL"] = os.fsencode(self._spool.root)
        env[b"QUEUECTL_JOB_ID"] = claim.id.encode()
        env[b"QUEUECTL_ATTEMPT"] = str(number).encode()
        env[b"QUEUECTL_CLAIM"] = claim.key.encode()
        try:
            if self._is_short:
                os.close(os.dup(self._null))
                self._is_short = False
            attempt.pid = self._spawn(job, env, attempt.log_fd)
            self._sessions.discard(attempt.pid)
            attempt.pidfd = os.pidfd_open(attempt.pid)
        except Overdue:
            os.close(attempt.log_fd)  # whose file it is now is not for us to say
            raise
        except OSError as error:
            if attempt.pid or error.errno in _BUSY:
                if attempt.pid:  # started, but without a descriptor it cannot be waited for
                    self._is_short = True
                    signal_group(attempt, signal.SIGKILL)
                    os.waitpid(attempt.pid, 0)
                self._forget_log(attempt)
                self._drop_spares()
                raise Busy(error.strerror) from None
            attempt.outcome = _unstarted(error, job)
            attempt.ended = time.monotonic()
            try:
                os.write(attempt.log_fd, f"queuectl: {attempt.outcome.detail}\n".encode("utf-8", "replace"))
            except OSError:
                pass  # the record says it too
            return attempt
        timeout = job.timeout or default_timeout
        attempt.deadline = attempt.began + timeout if timeout else None
        self.running[attempt.pidfd] = attempt
        return attempt

    def _spawn(self, job: Job, env: dict[bytes, bytes], output: int) -> int:
        """Start the command; the process id. OSError; of the working directory if its `filename` is that.

        posix_spawn, because it costs 75 microseconds of the worker's time, and subprocess 130 (internals.md). It
        takes no working directory, so this process goes there: all other paths here are absolute. All descriptors
        of the worker are closed on exec (`seal_descriptors`).
        """
        if job.cwd is not None:
            os.chdir(job.cwd.encode())
        try:
            actions = [(os.POSIX_SPAWN_DUP2, self._null, 0), (os.POSIX_SPAWN_DUP2, output, 1),
                       (os.POSIX_SPAWN_DUP2, output, 2)]  # fmt: skip
            if job.command is not None:
                program, argv = b"/bin/sh", [b"/bin/sh", b"-c", job.command.encode()]
            else:
                argv = [word.encode() for word in job.argv or ()]
                program = _find_program(argv[0], env.get(b"PATH", os.defpath.encode()))
                if self._spool.network:
                    _read_ahead(program)
            if self._is_overdue():  # to open the log, or to go to its directory, may have taken long
                raise Overdue
            return os.posix_spawn(program, argv, env, file_actions=actions, setsid=True,
                                  setsigmask=(), setsigdef=_DEFAULT_SIGNALS)
        finally:
            if job.cwd is not None:
                self._go_home()

    def _go_home(self) -> None:
        """Never an error: the command may have been started already."""
        try:
            os.fchdir(self._home)
        except OSError:  # it has been closed to us meanwhile
            os.chdir("/")

    def reap(self, pidfd: int) -> Attempt:
        """Take the result of an attempt whose first process has ended, and kill the rest of it."""
        attempt = self.running[pidfd]
        attempt.ended = time.monotonic()
        # The zombie keeps the group's number, so the group is killed before the zombie is taken away.
        signal_group(attempt, signal.SIGKILL)
        attempt.reaped = True
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert result is not None
        os.close(pidfd)
        del self.running[pidfd]
        killed = result.si_status if result.si_code != os.CLD_EXITED else None
        if attempt.reason == TIMED_OUT:
            timeout = (attempt.deadline or 0) - attempt.began
            attempt.outcome = Outcome(TIMED_OUT, signal=killed, detail=f"after {timeout:g} s")
        elif attempt.reason:
            attempt.outcome = Outcome(attempt.reason, signal=killed)
        elif killed is not None:
            attempt.outcome = Outcome(SIGNALLED, signal=killed, detail=_signal_name(killed))
        else:
            attempt.outcome = Outcome(EXITED, exit_code=result.si_status)
        return attempt

    def settled_down(self, ended: list[Attempt]) -> list[Attempt]:
        """Those of the `ended` attempts of which no process is left. The others' processes are being killed; ask
        again at the next turn.

        Orphans come to us, because we asked to be their parent. One that doesn't show whose it is (ssh-agent, env -i)
        belongs to any attempt that was there when it was first seen; it is killed when the last of these has ended. It
        holds nobody up until then: it may be a long job's, and one that we may not kill (sudo) for ever. Only at first
        it does, for a process that is just executing another program doesn't show whose it is either.
        """
        orphaned = self._orphans() if self._adopts else []
        self._beyond.intersection_update(orphaned)
        if not orphaned:
            self._strays, self.has_strays = {}, False
            return list(ended)
        running = {a.claim.key for a in self.running.values()}
        everyone = running | {a.claim.key for a in ended}
        logs = {a.log: a.claim.key for a in (*self.running.values(), *ended)}
        now = time.monotonic()
        strays: dict[int, tuple[set[str], float]] = {}
        awaited: set[str] = set()
        for pid in orphaned:
            mark = orphans.mark_of(pid) or logs.get(orphans.output_of(pid, self._logs), "")
            claims, since = self._strays.get(pid, (everyone, now))
            if mark:
                claims = {mark}
            strays[pid] = claims, since
            if claims & running:
                if not mark and now - since < EXECUTING:
                    awaited |= claims
            elif pid not in self._beyond:
                if orphans.kill(pid):
                    awaited |= claims
                else:
                    self._beyond.add(pid)
                    self._say("warning", f"process {pid} was left behind by a job as another user and cannot be killed")
        self._strays, self.has_strays = strays, bool(awaited)
        return [a for a in ended if a.claim.key not in awaited]

    def bury_orphans(self) -> None:
        """Take away what long jobs have left to us and has ended: as init would, were we not its parent."""
        if self._adopts:
            self._orphans()

    def _orphans(self) -> list[int]:
        """Our children that lead no attempt, and may be of one. Listed again when one of them has ended: its own
        children have come to us since the listing."""
        leaders = {a.pid for a in self.running.values()}
        left: list[int] = []
        for _ in range(orphans.ROUNDS):
            found = [pid for pid in self._children.pids() if pid not in leaders]
            left = [pid for pid in found if not _take_away(pid)]
            if len(left) == len(found):
                break
        return [pid for pid in left if orphans.session_of(pid) not in self._sessions]

    def finish_log(self, attempt: Attempt) -> str:
        """The log's name, or "" if nothing was printed; then `recycle_log` it, but not before the outcome is recorded:
        to recovery, a claim without a log is one that was never started."""
        attempt.printed = _size(attempt.log_fd)
        if not attempt.printed:
            return ""
        fd, attempt.log_fd = attempt.log_fd, -1
        try:
            os.close(fd)
        except OSError:
            pass  # NFS: what was printed could not be written (a quota); the job has ended as it has
        return attempt.log

    def recycle_log(self, attempt: Attempt) -> None:
        """Keep an empty log for the next attempt, unless there are many."""
        if attempt.log_fd >= 0:
            if len(self._spare_logs) < max(self.slots, SPARE_LOGS):
                self._spare_logs.append((attempt.log, attempt.log_fd))
                attempt.log_fd = -1
            else:
                self._forget_log(attempt)

    def _forget_log(self, attempt: Attempt) -> None:
        """Remove the log of an attempt that never began: its number is given again, and nothing may lie there then."""
        self._spool.remove_spare_log(attempt.log, attempt.log_fd)
        os.close(attempt.log_fd)
        attempt.log_fd = -1

    def end(self, attempt: Attempt, reason: str, now: float, grace: float = TERM_GRACE) -> None:
        """Ask an attempt to end: SIGTERM to its group (and SIGCONT, in case it stopped itself), SIGKILL after
        `grace` seconds. The first reason given is the one that counts."""
        if _is_over(attempt):
            return  # it has ended by itself, and is about to be reaped
        attempt.reason = attempt.reason or reason
        kill_at = now + grace
        if attempt.kill_at is None:
            signal_group(attempt, signal.SIGTERM)
            signal_group(attempt, signal.SIGCONT)
        attempt.kill_at = min(kill_at, attempt.kill_at or kill_at)

    def check_deadlines(self, now: float) -> None:
        """End what has passed its timeout; kill what has passed its grace."""
        for attempt in self.running.values():
            if attempt.deadline is not None and now >= attempt.deadline and not attempt.reason:
                self.end(attempt, TIMED_OUT, now)
            if attempt.kill_at is not None and now >= attempt.kill_at:
                attempt.kill_at = now + 1.0
                key = attempt.claim.key
                for pid in orphans.find(lambda mark, key=key: mark == key, self._spool.root):  # type: ignore[misc]
                    orphans.kill(pid)
                signal_group(attempt, signal.SIGKILL)

    def next_deadline(self) -> float | None:
        """When `check_deadlines` has something to do."""
        times = [
            when
            for a in self.running.values()
            for when in (a.kill_at, a.deadline if not a.reason else None)
            if when is not None
        ]
        return min(times, default=None)

    def kill_everything(self) -> None:
        """SIGKILL for all that runs, without touching the spool (R8: called by the fencing thread too)."""
        for attempt in list(self.running.values()):
            attempt.reason = attempt.reason or LOST
            signal_group(attempt, signal.SIGKILL)

    def close(self) -> None:
        """Give up all descriptors, and the logs that were kept to be used again."""
        self._drop_spares()
        os.close(self._null)
        os.close(self._home)
        self._children.close()

    def _drop_spares(self) -> None:
        while self._spare_logs:
            name, fd = self._spare_logs.pop()
            self._spool.remove_spare_log(name, fd)
            os.close(fd)

    def _open_log(self, name: str) -> int:
        # A job that printed nothing leaves an empty log behind, which becomes the next one by a rename: creating a
        # file for each job would cost more than all else the worker does (docs/internals.md).
        while self._spare_logs:
            spare, fd = self._spare_logs.pop()
            try:
                if self._spool.rename_log(spare, fd, name):
                    return fd
            except SpoolError:
                os.close(fd)
                raise
            os.close(fd)
        return self._spool.open_log(name)


def signal_group(attempt: Attempt, number: int) -> None:
    """Send a signal to all processes of an attempt's group. It is sent while the leader is unreaped, so the number is
    the attempt's own."""
    if attempt.pid and not attempt.reaped:
        try:
            os.killpg(attempt.pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def _is_over(attempt: Attempt) -> bool:
    """Whether its first process has ended. It stays there to be reaped."""
    return attempt.reaped or os.waitid(os.P_PIDFD, attempt.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _size(fd: int) -> int:
    """The size of a file that only this host writes to. fstat(2) would ask an NFS server for it; what this kernel knows
    (FIONREAD: from here to the end) is right."""
    to_the_end = array("i", [0])
    ioctl(fd, FIONREAD, to_the_end)
    return os.lseek(fd, 0, os.SEEK_CUR) + to_the_end[0]


def _take_away(pid: int) -> bool:
    """Reap a child that has ended; False if it has not."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def seal_descriptors() -> None:
    """Let no descriptor but the standard three pass to jobs: those this process inherited, and inotify's."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # the descriptor of this very listing


def _find_program(name: bytes, path: bytes) -> bytes:
    """Where a program lies, by the job's own PATH; a name with a slash is itself. FileNotFoundError."""
    if b"/" in name:
        return name
    import shutil

    found = shutil.which(name, path=os.fsdecode(path))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "command not found", name)
    return found


def _read_ahead(program: bytes) -> None:
    """Wait for a program's server here. Python holds its lock during posix_spawn, so a server that hangs in execve(2)
    would hold the heart and the fence up as well (R8)."""
    try:
        if stat.S_ISREG(os.stat(program).st_mode):
            with open(program, "rb", buffering=0) as file:
                file.read(1)
    except OSError:
        pass  # execve says it better


def _open_home() -> tuple[int, bool]:
    """Where jobs without a cwd run: where the worker was started (its name may go meanwhile, so it is kept open); or /,
    and False, if this user may not come back there."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        home = os.open(".", flags)
        os.fchdir(home)
        return home, True
    except OSError:
        os.chdir("/")
        return os.open("/", flags), False


def _unstarted(error: OSError, job: Job) -> Outcome:
    program = "/bin/sh" if job.argv is None else job.argv[0]
    if error.errno == errno.E2BIG:
        return Outcome(UNSTARTABLE, detail="the command and its environment are longer than the kernel allows")
    if job.cwd is not None and error.filename == job.cwd.encode():
        return Outcome(EXITED, exit_code=127, detail=f"the working directory {job.cwd}: {error.strerror}")
    code = 126 if error.errno in (errno.EACCES, errno.ENOEXEC, errno.EPERM) else 127
    return Outcome(EXITED, exit_code=code, detail=f"{program}: {error.strerror}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def own_environment() -> dict[str, str]:
    """What jobs inherit: the environment that this process was started in. Where that has no locale, Python has set
    LC_CTYPE for itself (PEP 538)."""
    environ = dict(os.environ)
    try:
        with open("/proc/self/environ", "rb") as file:
            if not any(pair.startswith(b"LC_CTYPE=") for pair in file.read().split(b"\0")):
                environ.pop("LC_CTYPE", None)
    except OSError:
        pass
    return environ
