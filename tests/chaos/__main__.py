"""python -m tests.chaos: one run of chaos, by hand. The seed is printed; with it the same decisions are made again."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.disk import Disk
from tests.chaos.driver import Chaos
from tests.chaos.plan import Plan


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of all decisions; a random one if not given")
    parser.add_argument("--seconds", type=float, default=60, help="how long the chaos lasts")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3, help="how many processes, of 1 to 4 slots")
    parser.add_argument("--hosts", type=int, default=1, help="the workers pretend to be on so many hosts")
    parser.add_argument("--spool", type=Path, help="where the spool lies; else on a small disk that is filled")
    parser.add_argument("--worker-env", action="append", default=[], metavar="NAME=VALUE",
                        help="for the workers' environment: LD_PRELOAD=liar.so, say (tests/liar/liar.c)")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the history and the logs, and the spool of --spool")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(f"signal {number}"))  # the end of a run cleans up
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="queuectl-chaos-"))
    broken = run(seed, given.seconds, given.jobs, given.workers, directory, given.spool, print, given.hosts,
                 dict(item.split("=", 1) for item in given.worker_env))  # fmt: skip
    for sentence in broken[:40]:
        print(f"BROKEN: {sentence}")
    print(f"seed {seed}: {len(broken)} promises broken")
    if given.keep or broken:
        print(f"history and logs: {directory}")
    else:
        shutil.rmtree(directory)
    if given.spool and not given.keep and not broken:
        shutil.rmtree(given.spool)
    return 1 if broken else 0


def run(
    seed: int, seconds: float, jobs: int, workers: int, directory: Path, spool: Path | None,
    say: Callable[[str], None], hosts: int = 1, variables: Mapping[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """One run; what was broken. Without a `spool` it lies on a small disk below `directory`."""
    plan = Plan(seed, seconds, jobs, workers, hosts)
    disk = None
    if spool is None:
        disk = Disk(directory / "disk", 96 + jobs // 100)  # a job keeps its record and some logs: 4 KiB each
        if disk.problem:
            say(disk.problem)
        spool = directory / "disk" / "spool"
    else:
        say("full disks are left out: the spool lies where --spool says")
    chaos = Chaos(plan, directory, spool, disk, say)
    chaos.fleet.variables.update(variables or {})
    try:
        broken = chaos.run()
        if disk and broken:
            shutil.copytree(spool, directory / "spool", symlinks=True)
        return broken
    finally:
        if disk:
            disk.close()


if __name__ == "__main__":
    sys.exit(main())
