"""Two hosts that run `doctor --peer` at the same time: how soon each sees what the other does.

Owns the meeting in .doctor/ (probe.py), which needs nothing but the file system that is to be examined. Each makes the
same few changes in a directory of its own, and watches the other's: by listing, by open + fstat, by stat, by inotify.
Each way has a file or directory to itself, because on NFS one look refreshes what another would have shown stale. Then
both claim the same names. All delays are by the server's clock, to which each knows its own clock's offset.

When things go wrong: nobody who comes, or a peer that goes away in the middle, is a Report that says less. OSError if
the spool itself fails.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import NamedTuple

from queuectl.core.times import SECOND
from queuectl.lease import boot_id, host
from queuectl.probe import Scratch
from queuectl.wakeup import Wakeup

ROUNDS = 5  # changes that each makes, for each way to look ...
ROUND = 0.3  # ... so many seconds apart
LIMIT = 20.0  # seconds until a change that is not seen counts as never seen; NFS shows stat up to 55 s late
TICK = 0.005  # seconds between two looks
FRESH = 10.0  # seconds; an older sign of life is that of a doctor who was killed
CLAIMS = 200  # names that both try to claim ...
PACE = 0.001  # ... with so many seconds between two: on a fast disk one would be done before the other begins
_ROOMS = ("list", "open", "stat", "watch", "claims")


class Report(NamedTuple):
    """What one host has seen of the other. Delays are seconds; empty or None: not seen within LIMIT.

    `met`: somebody came; `complete`: he stayed to the end; `same_kernel`: it is another process of this host;
    `offset`: how far his clock is ahead of ours, in seconds; `lock`: "shared" (his lock was refused to us), "not
    shared", or why there is none; `claimed`: how many names we won, he won, both won.
    """

    met: bool = False
    complete: bool = False
    host: str = ""
    same_kernel: bool = False
    offset: float = 0.0
    listed: tuple[float, ...] = ()
    opened: tuple[float, ...] = ()
    stated: float | None = None
    told: float | None = None
    lock: str = ""
    claimed: tuple[int, int, int] = (0, 0, 0)


def meet(mine: Scratch, wait: float, say: Callable[[str], None]) -> Report:
    """Meet another doctor within `wait` seconds, and find out. `say` is told what it waits for."""
    return _Meeting(mine, say).run(wait)


class _Meeting:
    def __init__(self, mine: Scratch, say: Callable[[str], None]) -> None:
        self._mine = mine
        self._say = say
        self._offset = mine.clock_offset()

    def run(self, wait: float) -> Report:
        lock = self._prepare()
        try:
            self._say("Waiting for another host: run `queuectl doctor --peer` there.")
            other = self._find(wait)
            if other is None:
                return Report()
            about = json.loads(_read(f"{other}/hello"))
            self._say(f"Met {about['host']}; this takes some seconds.")
            return self._examine(other, about)
        finally:
            if lock is not None:
                os.close(lock)

    def _prepare(self) -> int | None:
        """All that the other will look at is there before he can see us."""
        self._mine.make(*_ROOMS)
        for name in ("open/beat", "stat/beat"):
            self._mine.rewrite(name, b"-")
        for name in self._names():
            self._mine.put(f"claims/{name}")
        try:
            lock = self._mine.hold_lock()
        except OSError:
            lock = None
        about = {"host": host(), "boot_id": boot_id(), "offset": self._offset}
        self._mine.put("hello", json.dumps(about).encode())
        self._mine.rewrite("pair", b"")
        return lock

    # -- finding each other -----------------------------------------------------------------------------------

    def _find(self, wait: float) -> str | None:
        """The place of the doctor who has chosen us as we have chosen him; None if nobody came."""
        deadline, chosen, beat_at = time.monotonic() + wait, "", 0.0
        while time.monotonic() < deadline:
            if time.monotonic() >= beat_at:
                self._mine.rewrite("pair", chosen.encode())  # its time shows that we are alive
                self._mine.stir()
                beat_at = time.monotonic() + 1.0
            choices = self._choices()
            suitors = [name for name, choice in choices.items() if choice == self._mine.name]
            best = chosen if chosen in suitors else min(suitors or choices, default="")
            if best != chosen:
                chosen, beat_at = best, 0.0
            elif best in suitors:
                return os.path.join(self._mine.meeting, best)
            time.sleep(0.05)
        return None

    def _choices(self) -> dict[str, str]:
        """The other doctors that are alive, and whom each has chosen."""
        found = {}
        for name in os.listdir(self._mine.meeting):
            place = os.path.join(self._mine.meeting, name)
            if name == self._mine.name or not {"hello", "pair"} <= _names_in(place):
                continue
            try:
                if self._now() - _modified(f"{place}/pair") < FRESH:
                    found[name] = _read(f"{place}/pair").decode()
            except OSError:  # he has just gone
                continue
        return found

    # -- watching each other ----------------------------------------------------------------------------------

    def _examine(self, other: str, about: dict[str, object]) -> Report:
        wakeup = Wakeup({"watch": f"{other}/watch"})
        watching = wakeup.start()
        wakeup.take()
        try:
            report = Report(
                met=True, host=str(about.get("host")), same_kernel=about.get("boot_id") == boot_id(),
                offset=(self._offset - int(str(about.get("offset", 0)))) / SECOND, lock=_try_lock(f"{other}/lock"),
            )  # fmt: skip
            report = self._watch(other, report, wakeup if watching else None)
            return self._claim(other, report) if len(report.listed) == ROUNDS else report
        except FileNotFoundError:  # he has gone, with all that was his
            return report
        finally:
            wakeup.stop()

    def _watch(self, other: str, report: Report, wakeup: Wakeup | None) -> Report:
        listed: dict[str, float] = {}
        opened, stated, told = list[float](), None, None
        beat, stat_beat = _opened(f"{other}/open/beat"), os.stat(f"{other}/stat/beat").st_mtime
        self._mine.put("ready")
        began, acted, act_at = time.monotonic(), 0, math.inf
        while time.monotonic() < began + LIMIT:
            now = time.monotonic()
            if act_at == math.inf and "ready" in _names_in(other):
                act_at = now + ROUND  # he must have begun to look
                began = now
            if acted < ROUNDS and now >= act_at:
                self._act(acted)
                acted, act_at = acted + 1, now + ROUND
            for name in _names_in(f"{other}/list") - set(listed):
                listed[name] = self._since(_modified(f"{other}/list/{name}"))
            before, beat = beat, _opened(f"{other}/open/beat")
            if beat.st_mtime != before.st_mtime:
                opened.append(self._since(beat.st_mtime))
            if stated is None and (seen := os.stat(f"{other}/stat/beat").st_mtime) != stat_beat:
                stated = self._since(seen)
            if told is None and wakeup is not None and wakeup.take()[0]:
                told = self._since(_modified(f"{other}/watch/new"))
            all_seen = len(listed) == ROUNDS and beat.st_size == 1 + ROUNDS
            if acted == ROUNDS and all_seen and stated is not None and (told is not None or now >= act_at):
                break
            time.sleep(TICK)
        return report._replace(listed=tuple(listed.values()), opened=tuple(opened), stated=stated, told=told)

    def _act(self, number: int) -> None:
        self._mine.put(f"list/{number}")
        self._mine.rewrite("open/beat", b"-" * (2 + number))
        if number == 0:
            self._mine.rewrite("stat/beat", b"0")
            self._mine.put("watch/new")

    # -- claiming the same names ------------------------------------------------------------------------------

    def _claim(self, other: str, report: Report) -> Report:
        self._mine.put("go")
        if not self._await(other, "go"):
            return report
        arena = os.path.join(min(self._mine.place, other), "claims")
        names = self._names()
        random.shuffle(names)
        # Both read the same two times off the server, so they begin in the same moment, or nobody would be in a race.
        begin = max(_modified(f"{place}/go") for place in (self._mine.place, other)) + ROUND
        time.sleep(max(0.0, begin - self._now()))
        won = set()
        for name in names:
            if self._mine.grab(f"{arena}/{name}", f"{arena}/{name}@{self._mine.name}"):
                won.add(name)
            time.sleep(PACE)
        self._mine.put("done", json.dumps(sorted(won)).encode())
        if not self._await(other, "done"):
            return report
        his = set(json.loads(_read(f"{other}/done")))
        self._mine.put("bye")
        self._await(other, "bye")
        return report._replace(complete=True, claimed=(len(won), len(his), len(won & his)))

    def _await(self, other: str, name: str) -> bool:
        """Whether he has put that file, within 2 × LIMIT. By listing: to look for a name that is not there yet makes
        NFS remember that it isn't."""
        deadline, stir_at = time.monotonic() + 2 * LIMIT, 0.0
        while time.monotonic() < deadline and os.path.basename(other) in os.listdir(self._mine.meeting):
            if name in _names_in(other):
                return True
            if time.monotonic() >= stir_at:
                self._mine.stir()
                stir_at = time.monotonic() + ROUND
            time.sleep(TICK)
        return False

    # -- small things -----------------------------------------------------------------------------------------

    @staticmethod
    def _names() -> list[str]:
        return [f"claim-{number}" for number in range(CLAIMS)]

    def _now(self) -> float:
        """Seconds UTC by the server's clock."""
        return (time.time_ns() + self._offset) / SECOND

    def _since(self, modified: float) -> float:
        return max(0.0, self._now() - modified)


def _names_in(place: str) -> set[str]:
    try:
        return set(os.listdir(place))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _opened(path: str) -> os.stat_result:
    """What the server says of a file: by open + fstat (R11)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _modified(path: str) -> float:
    return _opened(path).st_mtime


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _try_lock(path: str) -> str:
    """What becomes of a lock that another host holds."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return "he has none"
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        return "not shared"
    except BlockingIOError:
        return "shared"
    except OSError as error:
        return error.strerror or errno.errorcode.get(error.errno or 0, "?")
    finally:
        os.close(fd)
