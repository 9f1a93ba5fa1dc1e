"""What a job and an `enqueue` cost in system calls and imports, which don't swing with the machine.

`python -m tests.benchmarks.counts` counts and writes counts.json; test_counts.py holds later states against it. Calls a
job: the difference between two workers with many and with few jobs, so that start and end don't count, and only those
of the worker's own threads. Left out is what depends on who was faster: waits, locks,
memory, the hint sync_file_range, and the eventfd with which the threads wake each other.
Needs strace; subprocess.CalledProcessError if a command fails.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

FILE = Path(__file__).with_name("counts.json")
FEW, MANY = 20, 220
UNSTEADY = frozenset(
    {"futex", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "clock_nanosleep",
     "restart_syscall", "sched_yield", "rt_sigreturn", "mmap", "munmap", "mprotect", "madvise", "brk",
     "sync_file_range"}
)  # fmt: skip
Counts = dict[str, dict[str, float]]


def _environment() -> dict[str, str]:
    """Without anything that changes what Python reads or writes as it starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QUEUECTL_"))}
    return {**kept, "PYTHONPATH": str(FILE.parents[2])}


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=_environment(), check=True)
    return done.stderr


def _traced(directory: str, *words: str) -> Counter[str]:
    """The calls of a command and its threads. A file a thread (-ff): one with an execve that isn't the first is a
    job's, a thread never has one."""
    _run("strace", "-f", "-ff", "-y", "-qq", "-e", "signal=none", "-o", f"{directory}/trace", *words)
    calls: Counter[str] = Counter()
    traces = sorted(Path(directory).glob("trace.*"), key=lambda path: int(path.suffix[1:]))
    for number, path in enumerate(traces):
        text = path.read_text(errors="replace")
        if number == 0 or "execve(" not in text:
            calls.update(re.findall(r"^(\w+)\((?!\d+<anon_inode:\[eventfd\]>)", text, re.MULTILINE))
    return calls


def _worker(jobs: int, durability: str) -> Counter[str]:
    with tempfile.TemporaryDirectory() as directory:
        queuectl = (sys.executable, "-m", "queuectl", "--spool", f"{directory}/spool")
        _run(*queuectl, "config", "set", "durability", durability)
        Path(directory, "jobs").write_text("true\n" * jobs)
        _run(*queuectl, "enqueue", "--batch", f"{directory}/jobs")
        # one slot: with two it is chance which ends are seen together
        return _traced(directory, *queuectl, "worker", "start", "--count", "1", "--until-empty")


def per_job(durability: str) -> dict[str, float]:
    """Call → how often it is made for a job."""
    few, many = _worker(FEW, durability), _worker(MANY, durability)
    found = {name: (many[name] - few[name]) / (MANY - FEW) for name in many if name not in UNSTEADY}
    return {name: round(value, 2) for name, value in sorted(found.items()) if value >= 0.05}


def per_enqueue() -> dict[str, float]:
    """`calls` beyond those of `python -c pass`, and `modules` imported in all."""
    with tempfile.TemporaryDirectory() as directory:
        python = (sys.executable,)
        enqueue = (*python, "-m", "queuectl", "--spool", f"{directory}/spool", "enqueue", "true")
        _run(*enqueue)  # makes the spool, and compiles what isn't yet
        imports = _run(sys.executable, "-X", "importtime", *enqueue[1:])
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            calls = _steady(_traced(one, *enqueue)) - _steady(_traced(other, *python, "-c", "pass"))
        return {"calls": calls, "modules": imports.count("import time:") - 1}  # the first line is a heading


def _steady(calls: Counter[str]) -> int:
    return sum(number for name, number in calls.items() if name not in UNSTEADY)


def counted() -> Counts:
    return {"job, none": per_job("none"), "job, fsync": per_job("fsync"), "enqueue": per_enqueue()}


def python() -> str:
    """The imports of another Python are others."""
    return ".".join(platform.python_version_tuple()[:2])


if __name__ == "__main__":
    FILE.write_text(json.dumps({"python": python(), **counted()}, indent=1) + "\n")
