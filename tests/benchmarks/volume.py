"""The measures of size: idle cost, backlog, and questions to a queue with a million jobs done.

Idle cost counts wake-ups and memory, which don't swing with the machine: it has no reference. The samples
of a backlog share one spool, which is filled up again before each: a spool of a million files for each
would take an hour.
"""

from __future__ import annotations

import time
from functools import partial

from . import processes, yardsticks
from .driver import Driver
from .harness import Bench, Box, Failed
from .measures import Sizes
from .queuectl_driver import Queuectl
from .sampling import Case, Figures, Pair, Row, attempt, collect
from .stamps import Stamps, rate

WINDOW = 500
"""Jobs in one reading of the backlog's rate."""


def idle(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """What workers with nothing to do cost: CPU, wake-ups, memory; servers included."""

    def take(slots: int, _: Pair) -> Figures:
        with bench.box() as box:
            session = driver.session(box)
            session.open()
            session.start(slots)
            processes.wait_until_quiet()
            pids = box.living()
            before, begin = processes.usage(pids), time.monotonic()
            time.sleep(sizes.idle_seconds)
            after, seconds = processes.usage(pids), time.monotonic() - begin
            if sorted(box.living()) != sorted(pids):
                raise Failed(f"the idle workers' processes changed. {box.complaint()}")
            return {
                "cpu": ((after.cpu - before.cpu) / seconds * 1000, "ms/s!"),
                "wake-ups": ((after.wakeups - before.wakeups) / seconds * 10, "per 10 s!"),
                "memory": (after.pss, "MiB PSS!"),
            }

    rows: list[Row] = []
    for slots in sizes.idle_slots:
        rows += collect(Case("idle", driver.name, f"{slots} slots"), None, partial(take, slots), 1)
    return rows


class Backlog:
    """A spool that is filled up, and worked at by one worker after another."""

    def __init__(self, bench: Bench, box: Box, driver: Queuectl) -> None:
        self._box = box
        self._durability = driver.durability
        self._stamps = Stamps(box, bench.stamp())
        self._loaded = 0
        self.session = driver.session(box)
        self.session.open()

    def fill(self, pending: int) -> None:
        """Without syncs, because a million take a while; then back to the setting that is measured."""
        missing = pending - (self._loaded - self._stamps.seen)
        if missing > 0:
            self.session.set_durability("none")
            self.session.load(self._stamps.commands(missing))
            self.session.set_durability(self._durability)
            self._loaded += missing

    def run(self, jobs: int, slots: int) -> Figures:
        """Start a worker, let it run `jobs` jobs, stop it."""
        begin = time.monotonic_ns()
        self.session.start(slots)
        self._stamps.wait(self.session, jobs)
        memory = processes.usage(self._box.living()).pss
        self.session.stop()
        clocks = self._stamps.take()
        figures = {
            "first job": ((clocks[0] - begin) / 1e9, "s!"),
            "first jobs": (rate(clocks[: min(WINDOW, jobs)]), "jobs/s"),
            "memory": (memory, "MiB PSS!"),
        }
        if jobs >= 3 * WINDOW:
            figures["later jobs"] = (rate(clocks[jobs - WINDOW : jobs]), "jobs/s")
        return figures


def backlog(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """The first and later jobs out of many that wait; then out of few, beside many that are done or not
    due.
    """
    assert isinstance(driver, Queuectl)
    rows: list[Row] = []

    def samples(case: Case, pending: int, *, completed: int = 0, scheduled: int = 0) -> list[Row]:
        jobs = min(3 * WINDOW, pending)
        reference = yardsticks.xargs_rate(bench, min(WINDOW, jobs), sizes.slots, stamped=True)
        with bench.box() as box:
            queue = Backlog(bench, box, driver)
            if completed:
                queue.session.fabricate_completed(completed)
            if scheduled:
                queue.session.load_scheduled(scheduled)

            def take(pair: Pair) -> Figures:
                queue.fill(pending)
                with pair:
                    return queue.run(jobs, sizes.slots)

            return collect(case, reference, take, sizes.samples)

    for pending in sizes.pending:
        case = Case("backlog", driver.name, f"{pending:,} pending")
        rows += attempt(case, partial(samples, case, pending))
    case = Case("backlog", driver.name, f"{sizes.completed:,} completed")
    rows += attempt(case, partial(samples, case, 3 * WINDOW, completed=sizes.completed))
    case = Case("backlog", driver.name, f"{sizes.scheduled:,} scheduled")
    rows += attempt(case, partial(samples, case, 3 * WINDOW, scheduled=sizes.scheduled))
    return rows


def queries(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """status, list and show with few jobs done and with very many."""
    assert isinstance(driver, Queuectl)
    rows: list[Row] = []

    def samples(case: Case, completed: int) -> list[Row]:
        with bench.box() as box:
            session = driver.session(box)
            session.open()
            known = session.fabricate_completed(completed)
            environment = box.environment()
            asked = {"status": ["status"], "list": ["list"], "show": ["show", known]}

            def take(pair: Pair) -> Figures:
                with pair:
                    taken = {
                        name: yardsticks.time_command(session.argv(*words), sizes.commands, environment)
                        for name, words in asked.items()
                    }
                return {name: (value, "ms") for name, value in taken.items()}

            reference = yardsticks.interpreter_time(driver.interpreter(), sizes.commands)
            return collect(case, reference, take, sizes.samples)

    for completed in (10, sizes.completed):
        case = Case("queries", driver.name, f"{completed:,} completed")
        rows += attempt(case, partial(samples, case, completed))
    return rows
