"""The measures of speed: throughput, enqueue, startup, latency.

Each takes a driver and gives rows. A peer that loses a job, or runs one twice, has no rate: its row says why.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from . import yardsticks
from .driver import Driver, echo_jobs, wait_done
from .harness import Bench, Failed
from .latency import Probe, Stream, delays
from .processes import wait_until_quiet
from .sampling import Case, Figures, Pair, Row, collect, percentile


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults are those of the report."""

    samples: int = 5
    jobs: int = 2_000
    slots: int = 2
    enqueues: int = 1_000
    batches: tuple[int, ...] = (10_000, 100_000)
    commands: int = 10
    latency_jobs: int = 50
    idle_slots: tuple[int, ...] = (1, 8, 64)
    idle_seconds: float = 20.0
    pending: tuple[int, ...] = (100, 10_000, 100_000, 1_000_000)
    completed: int = 1_000_000
    scheduled: int = 500_000
    workers: tuple[int, ...] = (1, 2, 4, 8, 16)

    @classmethod
    def quick(cls) -> Sizes:
        """Enough to see that everything works."""
        return cls(
            samples=1,
            jobs=200,
            enqueues=100,
            batches=(1_000,),
            commands=3,
            latency_jobs=10,
            idle_slots=(1, 8),
            idle_seconds=2.0,
            pending=(100, 2_000),
            completed=1_000,
            scheduled=1_000,
            workers=(1, 4),
        )


def throughput(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """Queued jobs `echo N >> file`, 2 at a time, from the worker's start to its own end or the last job's."""
    jobs = min(sizes.jobs, driver.most_queued)

    def take(pair: Pair) -> Figures:
        with bench.box() as box:
            target = box.path / "out"
            commands, size = echo_jobs(jobs, target)
            session = driver.session(box)
            session.open()
            session.load(commands)
            with pair:
                begin = time.perf_counter()
                session.start(sizes.slots, until_empty=True)
                wait_done(session, target, size)
                seconds = time.perf_counter() - begin
            if len(set(target.read_text().split())) != jobs:
                raise Failed("not every job ran, or one ran twice")
            return {"rate": (jobs / seconds, "jobs/s")}

    reference = yardsticks.xargs_rate(bench, jobs, sizes.slots)
    return collect(Case("throughput", driver.name, f"{jobs} jobs"), reference, take, sizes.samples)


def enqueue(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """The rate of enqueueing by API and by batch; with nothing running that would take the jobs."""
    rows: list[Row] = []

    def take(way: str, count: int, pair: Pair) -> Figures:
        with bench.box() as box:
            session = driver.session(box)
            session.open()
            commands = [f"echo {n}" for n in range(count)]
            with pair:
                seconds = session.enqueue_bulk(commands, way)
            return {"rate": (count / seconds, "jobs/s")}

    for way in driver.bulk:
        for count in sizes.batches if way == "batch" else (sizes.enqueues,):
            case = Case("enqueue", driver.name, f"{way}, {count} jobs")
            reference = yardsticks.bare_files(bench, min(count, 10_000), driver.durable)
            rows += collect(case, reference, partial(take, way, count), sizes.samples)
    return rows


def startup(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """The time of one enqueue and of one status on the command line, beside that of `python3 -c pass`."""
    reference = yardsticks.interpreter_time(driver.interpreter(), sizes.commands)

    def take(pair: Pair) -> Figures:
        with bench.box() as box:
            session = driver.session(box)
            session.open()
            environment = box.environment(session.variables())
            with pair:
                once = yardsticks.time_command(session.enqueue_argv("true"), sizes.commands, environment)
                figures = {"enqueue": (once, "ms")}
                try:
                    status = session.status_argv()
                except NotImplementedError:
                    return figures
                figures["status"] = (yardsticks.time_command(status, sizes.commands, environment), "ms")
            return figures

    return collect(Case("startup", driver.name), reference, take, sizes.samples)


def latency(bench: Bench, driver: Driver, sizes: Sizes) -> list[Row]:
    """One job at a time at random moments, to an idle worker and to one that is kept claiming."""
    rows: list[Row] = []
    reference = yardsticks.fifo_delay(bench, max(10, sizes.latency_jobs // 2))

    def take(way: str, busy: bool, pair: Pair) -> Figures:
        with bench.box() as box, ExitStack() as stack:
            session = driver.session(box)
            session.open()
            session.start(sizes.slots)
            probe = stack.enter_context(closing(Probe(box, bench.stamp())))
            feeder = session.feeder(way)
            wait_until_quiet()
            with pair:
                if busy:
                    other = stack.enter_context(closing(Probe(box, bench.stamp(), "stream")))
                    with Stream(other, session.feeder(way, lane=1)):
                        found = delays(probe, feeder, sizes.latency_jobs, driver.pause)
                else:
                    found = delays(probe, feeder, sizes.latency_jobs, driver.pause)
            # a command line ends long after it has enqueued, so the difference is no multiple of anything
            unit = "ms!" if way == "cli" else "ms"
            return {
                "p50": (percentile(found.after, 0.5), unit),
                "p95": (percentile(found.after, 0.95), unit),
                "max": (max(found.after), unit),
                "whole p50": (percentile(found.whole, 0.5), "ms"),
                "whole p95": (percentile(found.whole, 0.95), "ms"),
            }

    for way in driver.feeds:
        for busy in (False, True):
            case = Case("latency", driver.name, f"{way}, {'claiming' if busy else 'idle'}")
            rows += collect(case, reference, partial(take, way, busy), sizes.samples)
    return rows
