"""doctor: whether the place where a spool lies is good for one, tried out on the very mount.

Owns the list of checks, and what each answer means: green, yellow (it works, but know this) or red (it doesn't work, or
will lose something). What is done to the file system is done by probe.py and, with a second host, by peer.py; here it
is judged. Whether the jobs in the spool are in order is fsck's matter.

When things go wrong: that is what is looked for. A check that the file system doesn't let finish is red, with what the
system said; the others go on.

It is long because it is a list: each check stands with what its answers mean, and what to do.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from queuectl.core.times import SECOND, say_duration
from queuectl.disk import FEW_INODES
from queuectl.errors import SpoolError
from queuectl.mounts import Mount, mount_of
from queuectl.peer import CLAIMS, LIMIT, Report, meet
from queuectl.probe import Scratch, scratch
from queuectl.spool import Spool
from queuectl.talk import size
from queuectl.wakeup import Wakeup

GREEN, YELLOW, RED = "green", "yellow", "red"
# File systems on which the tests run the whole doctor and the race for claims (docs/filesystems.md).
TRIED = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "overlay", "nfs", "nfs4", "fuse.glusterfs", "fuse.sshfs"})
SLOW_SYNC = 0.2  # seconds; with it a worker settles five batches a second at most
CLOCK_NOTICED = 2.0  # seconds by which clocks may differ before somebody notices jobs that start early or late
SOME_INODES = 10_000
MAKE_ROOM = "Make room, for example with `queuectl prune --older-than 1d`."
EVENT_LIMIT = 2.0  # seconds; watchdog's default delay would be 0.5


class Finding(NamedTuple):
    """What one check has found: its name, green, yellow or red, the fact, and what to do about it (empty: nothing)."""

    check: str
    level: str
    found: str
    remedy: str = ""


class Patient(NamedTuple):
    """What the checks look at. `min_free` is the setting, in bytes."""

    spool: Spool
    mount: Mount
    network: bool
    min_free: int


def examine(
    spool: Spool, min_free: int, peer: float | None, say: Callable[[str], None], fs: object = os
) -> tuple[list[Finding], Report | None]:
    """All findings, in the order of the checks; and what a peer showed, if one was waited for (`peer` seconds)."""
    patient = Patient(spool, mount_of(spool.root), spool.network, min_free)
    findings = [finding for check in READING for finding in _run(check, patient)]
    report = None
    with ExitStack() as stack:
        try:
            place = stack.enter_context(scratch(spool.root, fs))
        except OSError as error:
            return [*findings, _refused("writing", error)], None
        findings += [finding for check in TRYING for finding in _run(check, patient, place)]
        if peer is not None:
            try:
                report = meet(place, peer, say)
                findings += judge_peer(report, patient.network)
            except OSError as error:
                findings.append(_refused("other host", error))
    return findings, report


def worst(findings: list[Finding]) -> str:
    """The worst level of all."""
    levels = {finding.level for finding in findings}
    return RED if RED in levels else YELLOW if YELLOW in levels else GREEN


def _run(check: Callable[..., Iterator[Finding]], *given: object) -> list[Finding]:
    try:
        return list(check(*given))
    except (OSError, SpoolError) as error:
        return [_refused(check.__name__.strip("_").replace("_", " "), error)]


def _refused(check: str, error: OSError | SpoolError) -> Finding:
    known = error if isinstance(error, SpoolError) else SpoolError.of(error, "try it")
    return Finding(check, RED, str(known).partition(". ")[0], str(known).partition(". ")[2])


# -- what can be read -------------------------------------------------------------------------------------------------


def _file_system(patient: Patient) -> Iterator[Finding]:
    mount = patient.mount
    how = "workers list it" if patient.network else "workers are told by the kernel"
    found = f"{mount.type} at {mount.point}, {'shared by hosts' if patient.network else 'local'}: {how}"
    if mount.type in TRIED:
        yield Finding("file system", GREEN, found)
    else:
        yield Finding("file system", YELLOW, found, "This type was not tried out by queuectl's tests. Look at what"
                      " follows, and let two hosts run `queuectl doctor --peer`.")  # fmt: skip


def _mount_options(patient: Patient) -> Iterator[Finding]:
    yield from judge_mount(patient.mount)


# Option, level, what it does, what to do.
_OPTIONS = (
    ("ro", RED, "nothing can be written", "Mount it for writing (`rw`)."),
    ("soft", RED, "after a timeout a call fails that the server may have done", "Mount it with `hard`."),
    ("softerr", RED, "after a timeout a call fails that the server may have done", "Mount it with `hard`."),
    ("nolock", YELLOW, "locks hold on one host only; no job depends on them, but of two `config set` at one moment on"
     " two hosts one may be lost", "Mount it without `nolock`, or set settings from one host."),
    ("nocto", YELLOW, "a file that another host has changed is seen late", "Mount it without `nocto`."),
    ("noac", YELLOW, "every look is a request to the server: it is slow, and queuectl doesn't need it",
     "Mount it without `noac`."),
    ("nobarrier", YELLOW, "a power cut may take what was synced", "Mount it without `nobarrier`."),
    ("barrier=0", YELLOW, "a power cut may take what was synced", "Mount it without `barrier=0`."),
)  # fmt: skip


def judge_mount(mount: Mount) -> list[Finding]:
    """What the options of a mount mean, one finding for each that matters."""
    options = mount.options
    found = [Finding("mount options", level, f"{option}: {why}", remedy)
             for option, level, why, remedy in _OPTIONS if option in options]  # fmt: skip
    versions = {option.partition("=")[2] for option in options if option.startswith(("vers=", "nfsvers="))}
    if mount.type == "nfs" and any(version.startswith(("2", "3")) for version in versions or {"3"}):
        found.append(Finding("mount options", YELLOW, f"NFS version {min(versions, default='3')}: it works; after a"
                             " power cut the server may keep the locks of a host until it is back",
                             "Mount it with `vers=4.2` if the server has it."))  # fmt: skip
    if mount.type == "tmpfs":
        found.append(Finding("mount options", YELLOW, "tmpfs: it lies in memory, and is gone at the next boot",
                             "Put the spool on a disk, unless that is what you want."))  # fmt: skip
    if not found:
        shown = ", ".join(sorted((options & {"hard", "rw"}) | {f"vers={version}" for version in versions}))
        found.append(Finding("mount options", GREEN, shown or "nothing that matters"))
    return found


def _modes(patient: Patient) -> Iterator[Finding]:
    wrong = list(patient.spool.wrong_modes())
    if wrong:
        path, mode, _, why = wrong[0]
        more = f"; {len(wrong) - 1} more of the directories are wrong" if len(wrong) > 1 else ""
        yield Finding("modes", RED, f"{path} is {mode:04o}: {why}{more}",
                      "`queuectl fsck --repair` sets them right.")  # fmt: skip
    else:
        yield Finding("modes", GREEN, "nobody else may look or write" if not patient.spool.group else
                      "the group may work, nobody else may look or write")  # fmt: skip
    patient.spool.check_owner()


def _space(patient: Patient) -> Iterator[Finding]:
    free, inodes = patient.spool.free()
    found = f"{size(free)} are free"
    least = f"{size(patient.min_free)} (setting min-free)"
    if free < patient.min_free:
        yield Finding("space", RED, f"{found}: less than {least}, so no job is started",
                      MAKE_ROOM)  # fmt: skip
    elif free < 4 * patient.min_free:
        yield Finding("space", YELLOW, f"{found}: soon less than {least}, and then no job is started",
                      MAKE_ROOM)  # fmt: skip
    else:
        yield Finding("space", GREEN, found)
    if inodes < 0:
        yield Finding("inodes", GREEN, "they are not counted here")
        return
    level = RED if inodes < FEW_INODES else YELLOW if inodes < SOME_INODES else GREEN
    means = f"less than {FEW_INODES}, so no job is started" if level == RED else "room for as many jobs and logs"
    yield Finding("inodes", level, f"{inodes:,} are free: {means}", "" if level == GREEN else MAKE_ROOM)


def _inotify_limits(patient: Patient) -> Iterator[Finding]:
    most = _limit("max_user_instances")
    used = _instances()
    found = f"{used} of {most} instances of this user are taken; {_limit('max_user_watches'):,} watches, a queue of" \
            f" {_limit('max_queued_events'):,} events"  # fmt: skip
    full = used + 1 >= most
    yield Finding("inotify limits", YELLOW if full else GREEN, found, "" if not full else
                  "A worker that gets none lists the spool instead. Raise fs.inotify.max_user_instances with"
                  " sysctl.")  # fmt: skip


def _limit(name: str) -> int:
    with open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
        return int(file.read())


def _instances() -> int:
    """The inotify instances of this user's processes, as far as they can be seen."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            for fd in os.listdir(f"/proc/{pid}/fd"):
                count += os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:inotify"
        except OSError:
            continue
    return count


# -- what must be tried -----------------------------------------------------------------------------------------------


def _names(patient: Patient, place: Scratch) -> Iterator[Finding]:
    yield _answer("names", place.try_names(), "255 letters, kept as they are, capitals told apart",
                  "A spool cannot lie here: put it on another file system.")  # fmt: skip


def _exclusive_create(patient: Patient, place: Scratch) -> Iterator[Finding]:
    yield _answer("exclusive create", place.try_exclusive_create(), "of four who create a name one is told that he has",
                  "Two may get one id here: put the spool on another file system.")  # fmt: skip


def _symbolic_link(patient: Patient, place: Scratch) -> Iterator[Finding]:
    yield _answer("symbolic link", place.try_symlink(), "made exclusively, too",
                  "Ids are reserved by symbolic links: put the spool on another file system.")  # fmt: skip


def _rename(patient: Patient, place: Scratch) -> Iterator[Finding]:
    yield _answer("rename", place.try_rename(), "of four who take a file one is told that he has",
                  "Jobs may be run twice or lost here: put the spool on another file system.")  # fmt: skip


def _replace(patient: Patient, place: Scratch) -> Iterator[Finding]:
    problem = place.try_replace()
    yield Finding("replace", YELLOW if problem else GREEN, problem or "a replaced name is there at every moment",
                  "No job is replaced, but settings are: whoever reads config.toml in that moment takes the defaults."
                  if problem else "")  # fmt: skip


def _hard_link(patient: Patient, place: Scratch) -> Iterator[Finding]:
    problem = place.try_link()
    yield Finding("hard link", YELLOW if problem else GREEN, problem or "there are hard links, which replace nothing",
                  "It works without; two who make a spool in one moment may disagree about it." if problem else "")


def _sync(patient: Patient, place: Scratch) -> Iterator[Finding]:
    file, directory = place.time_sync()
    if not patient.spool.durable:
        yield Finding("sync", YELLOW, "durability is none: accepted jobs and outcomes may be lost with the power",
                      "`queuectl config set durability fsync`, unless that is what you want.")  # fmt: skip
        return
    found = f"a file {_ms(file)}, a directory {_ms(directory) if directory is not None else 'cannot be synced'}"
    if directory is None:
        yield Finding("sync", YELLOW, found, "An accepted job may be lost with the power. Local disks can do better.")
    elif max(file, directory) > SLOW_SYNC:
        yield Finding("sync", YELLOW, found, "Each batch of jobs waits for that. If the disk is always so slow, and"
                      " jobs can be made again: `queuectl config set durability none`.")  # fmt: skip
    else:
        yield Finding("sync", GREEN, found)


def _lock(patient: Patient, place: Scratch) -> Iterator[Finding]:
    yield _answer("lock", place.try_flock(), "flock excludes on this host",
                  "By it a host knows which of its workers are dead. On NFS 3 start rpc.statd, or mount with"
                  " `nolock`.")  # fmt: skip


def _inotify(patient: Patient, place: Scratch) -> Iterator[Finding]:
    place.make("watched")
    wakeup = Wakeup({"watched": place.path("watched")})
    try:
        if not wakeup.start():
            yield Finding("inotify", YELLOW, wakeup.problem, "Workers list the spool instead, each poll-interval.")
            return
        wakeup.take()
        began = time.monotonic()
        place.put("watched/file")
        seen = False
        while not seen and (left := began + EVENT_LIMIT - time.monotonic()) > 0:
            select.select([wakeup], [], [], left)
            seen = bool(wakeup.take()[0])
        took = time.monotonic() - began
    finally:
        wakeup.stop()
    if seen:
        yield Finding("inotify", GREEN, f"it tells of this host's changes, after {_ms(took)}")
    else:
        yield Finding("inotify", YELLOW, "it tells nothing of new files", "Workers find them by listing; jobs start"
                      " up to half a minute late on what counts as local.")  # fmt: skip


def _clock(patient: Patient, place: Scratch) -> Iterator[Finding]:
    offset = place.clock_offset() / SECOND
    found = f"the file system's is {_offset(offset)} this host's"
    far = abs(offset) >= CLOCK_NOTICED
    yield Finding("clock", YELLOW if far else GREEN, found, "" if not far else
                  "Jobs enqueued here with --in start by so much early or late. Set the clock (NTP).")  # fmt: skip


READING = (_file_system, _mount_options, _modes, _space, _inotify_limits)
TRYING = (_names, _exclusive_create, _symbolic_link, _rename, _replace, _hard_link, _sync, _lock, _inotify, _clock)


# -- what two hosts have seen of each other ---------------------------------------------------------------------------


def judge_peer(report: Report, network: bool) -> Iterator[Finding]:
    """What a meeting has shown. `network`: workers list this spool."""
    if not report.met:
        yield Finding("other host", YELLOW, "nobody came", "Run `queuectl doctor --peer` on both hosts within a minute,"
                      " on one spool: is it the same one (`cat .id`)?")  # fmt: skip
        return
    who = f"{report.host} (another process of this host)" if report.same_kernel else report.host
    if report.complete:
        yield Finding("other host", GREEN, f"met {who}")
    else:
        yield Finding("other host", RED, f"met {who}, who did not stay to the end", "Run both again.")
    yield _delays("seen by listing", report.listed, "Workers find new jobs by listing: this is what poll-interval"
                  " cannot shorten.")  # fmt: skip
    yield _delays("seen by open", report.opened, "Heartbeats are read so: stale-after must be much longer than this.")
    late = f"not within {LIMIT:g} s" if report.stated is None else _ms(report.stated)
    yield Finding("seen by stat", GREEN, f"{late}; queuectl doesn't rely on it")
    if report.told is not None:
        yield Finding("told by inotify", GREEN, f"after {_ms(report.told)}")
    elif network:
        yield Finding("told by inotify", GREEN, "nothing, as expected: workers list this file system")
    else:
        yield Finding("told by inotify", YELLOW, "nothing, though this file system counts as local",
                      "What the other host enqueues starts up to half a minute late.")  # fmt: skip
    far = abs(report.offset) >= CLOCK_NOTICED
    yield Finding("other clock", YELLOW if far else GREEN, f"his is {_offset(report.offset)} ours", "" if not far else
                  "Jobs enqueued with --in start by so much early or late. Set the clocks (NTP).")  # fmt: skip
    if report.lock == "shared":
        yield Finding("lock across hosts", GREEN, report.lock)
    elif report.same_kernel:  # two mounts: by the lock each would find the other's workers dead
        yield Finding("lock across hosts", RED, f"{report.lock}, though it is the same host",
                      "Jobs would be run twice. Let all workers of this host use one mount.")  # fmt: skip
    else:
        yield Finding("lock across hosts", YELLOW, report.lock, "No job depends on it. Of two `config set` at one"
                      " moment on two hosts one may be lost.")  # fmt: skip
    if report.complete:
        yield _claims(*report.claimed)


def _delays(check: str, seen: tuple[float, ...], meaning: str) -> Finding:
    if not seen:
        return Finding(check, RED, "nothing of what the other host did", "As it is mounted, this file system cannot"
                       " carry a spool for several hosts. sshfs: mount it with `-o dir_cache=no`.")  # fmt: skip
    ordered = sorted(seen)
    found = f"after {_ms(ordered[len(ordered) // 2])} (median of {len(ordered)}), at most {_ms(ordered[-1])}"
    return Finding(check, GREEN, found) if ordered[-1] < CLOCK_NOTICED else Finding(check, YELLOW, found, meaning)


def _claims(mine: int, his: int, both: int) -> Finding:
    found = f"of {CLAIMS} names this host took {mine}, the other {his}, both {both}"
    if both or mine + his != CLAIMS:
        return Finding("claims", RED, found, "Jobs would be run twice, or lost. No spool for several hosts here.")
    return Finding("claims", GREEN, found)


# -- words ------------------------------------------------------------------------------------------------------------


def _answer(check: str, problem: str, good: str, remedy: str) -> Finding:
    return Finding(check, RED, problem, remedy) if problem else Finding(check, GREEN, good)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else say_duration(round(seconds, 1))


def _offset(seconds: float) -> str:
    if abs(seconds) < 0.05:  # the kernel's clock for files goes in steps of up to 10 ms
        return "the same as"
    return f"{say_duration(round(abs(seconds), 1))} {'ahead of' if seconds > 0 else 'behind'}"

