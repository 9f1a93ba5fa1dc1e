"""The measure of contention: ever more worker processes on one spool.

The workers are up and asleep before a batch arrives, and the rate counts from the first job's beginning
to the last's: else it would be the time that so many interpreters take to start. Failed renames are
counted by the workers where they do so, and by strace in a run of its own whose rate isn't reported,
because strace slows each rename and so makes more races.
"""

from __future__ import annotations

import re
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from . import processes, yardsticks
from .driver import Driver
from .harness import Bench, Box, Failed
from .measures import Sizes
from .queuectl_driver import Queuectl, QueuectlSession
from .sampling import Case, Figures, Pair, Row, collect
from .stamps import Stamps, rate

STRACE = ("strace", "-f", "-c", "-e", "trace=rename,renameat,renameat2")


def contention(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """The same number of slots, in ever more worker processes on one spool. They are up before the jobs
    arrive.
    """
    assert isinstance(driver, Queuectl)
    slots = max(sizes.workers)
    rows: list[Row] = []

    def take(workers: int, pair: Pair) -> Figures:
        with bench.box() as box:
            found, session = _contend(bench, box, driver, sizes.jobs, workers, slots // workers, pair)
            figures = {"rate": (found, "jobs/s")}
            failed = session.failed_renames()
            if failed is not None:
                figures["failed renames"] = (failed / sizes.jobs, "per claim!")
            return figures

    def trace(workers: int, _: Pair) -> Figures:
        with bench.box() as box:
            _contend(bench, box, driver, sizes.jobs, workers, slots // workers, None)
            failed = sum(_failed_calls(path) for path in box.path.glob("strace.*"))
            return {"failed renames, traced": (failed / sizes.jobs, "per claim!")}

    for workers in sizes.workers:
        case = Case("contention", driver.name, f"{workers} workers of {slots // workers} slots")
        reference = yardsticks.xargs_rate(bench, sizes.jobs, slots, stamped=True)
        rows += collect(case, reference, partial(take, workers), sizes.samples)
        if shutil.which("strace"):
            rows += collect(case, None, partial(trace, workers), 1)
    return rows


def _contend(
    bench: Bench, box: Box, driver: Queuectl, jobs: int, workers: int, slots: int, pair: Pair | None
) -> tuple[float, QueuectlSession]:
    """Run the jobs; with a pair, between its references, without, under strace. The rate from first job to
    last.
    """
    stamps = Stamps(box, bench.stamp())
    session = driver.session(box)
    session.open()
    strace = [*STRACE, "-o", str(box.path / "strace.{n}")]
    session.start(slots, workers=workers, wrap=strace if pair is None else [])
    processes.wait_until_quiet()
    with pair or nullcontext():
        session.load(stamps.commands(jobs))
        stamps.wait(session, jobs)
    if pair is None:
        session.stop()  # strace writes its summary now
    clocks = stamps.take()
    if len(clocks) != jobs:
        raise Failed(f"{len(clocks)} runs of {jobs} jobs")
    return rate(clocks), session


def _failed_calls(path: Path) -> int:
    """The errors column of strace -c, summed. A line is: % time, seconds, usecs/call, calls, [errors,]
    name.
    """
    total = 0
    for line in path.read_text().splitlines():
        found = re.fullmatch(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+\d+\s+(\d+)\s+rename\w*\s*", line)
        if found:
            total += int(found[1])
    return total
