"""The references that samples are set in relation to, each run just before and after a sample.

xargs: the rate of `xargs -P` over the same jobs. fifo: the median delay of an xargs that reads a FIFO.
interpreter: the time of `python3 -c pass`. bare files: the rate of writing as many files and renaming
them, with one syncfs or without.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

from .driver import echo_jobs, wait_done
from .harness import Bench, Box, Failed
from .latency import Probe, delays
from .shell_peers import XargsSession
from .stamps import Stamps


def xargs_rate(bench: Bench, jobs: int, slots: int, stamped: bool = False) -> Callable[[], float]:
    """Jobs a second, from the start of xargs to its end; the jobs are `echo N >> file`, or stamps."""

    def reference() -> float:
        with bench.box() as box:
            target = box.path / "out"
            commands, size = echo_jobs(jobs, target)
            if stamped:
                target = box.path / "stamps"
                commands, size = Stamps(box, bench.stamp()).commands(jobs), jobs
            session = XargsSession(box)
            session.load(commands)
            begin = time.perf_counter()
            session.start(slots, until_empty=True)
            wait_done(session, target, size)
            return jobs / (time.perf_counter() - begin)

    return reference


def fifo_delay(bench: Bench, jobs: int) -> Callable[[], float]:
    """Milliseconds."""

    def reference() -> float:
        with bench.box() as box:
            session = XargsSession(box)
            session.start(2)
            probe = Probe(box, bench.stamp())
            feeder = session.feeder("fifo")
            return statistics.median(delays(probe, feeder, jobs, pause=0.05).after)

    return reference


def time_command(argv: Sequence[str], times: int, env: Mapping[str, str] | None = None) -> float:
    """The median of the milliseconds that a command takes; Failed if it fails."""
    taken = []
    with tempfile.TemporaryFile() as errors:
        for _ in range(times):
            begin = time.perf_counter()
            code = subprocess.call(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
            taken.append((time.perf_counter() - begin) * 1000)
            if code != 0:
                errors.seek(0)
                raise Failed(f"{argv[0]}: exit code {code}. {errors.read().decode(errors='replace')[-300:]}")
    return statistics.median(taken)


def interpreter_time(python: str, times: int) -> Callable[[], float]:
    """Milliseconds of `python3 -c pass`."""
    return lambda: time_command([python, "-c", "pass"], times)


def _syncfs(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def bare_files(bench: Bench, count: int, durable: bool) -> Callable[[], float]:
    """Files a second."""

    def reference() -> float:
        with bench.box() as box:
            return count / _write_files(box, count, durable)

    return reference


def _write_files(box: Box, count: int, durable: bool) -> float:
    beside, target = box.path / "beside", box.path / "target"
    beside.mkdir()
    target.mkdir()
    begin = time.perf_counter()
    for number in range(count):
        with open(f"{beside}/{number}", "wb") as stream:
            stream.write(b'{"command": "echo hello"}\n')
    if durable:
        _syncfs(str(box.path))
    for number in range(count):
        os.rename(f"{beside}/{number}", f"{target}/{number}")
    if durable:
        _syncfs(str(box.path))
    return time.perf_counter() - begin
