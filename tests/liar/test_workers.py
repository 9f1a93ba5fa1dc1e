"""Two hundred jobs and two workers on a file system that lies: the checker of tests/chaos finds nothing lost and
nothing doubled."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl.spool import Spool
from tests.chaos import checker, history
from tests.chaos.driver import JOB
from tests.chaos.fleet import Fleet, kill_strays
from tests.liar.conftest import Liar

JOBS = 200  # fewer where each lie costs the worker a second's pause
LIMIT = 120.0  # seconds


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    Spool(tmp_path / "spool", durability="none")
    fleet = Fleet(tmp_path / "spool", tmp_path, "none")
    yield fleet
    fleet.end_all(signal.SIGKILL, 10)
    kill_strays(tmp_path / "spool")


def drain(fleet: Fleet, workers: int) -> None:
    """Workers until the queue is empty. One that cannot even begin, or finish, is started again."""
    deadline = time.monotonic() + LIMIT
    running = [fleet.start(2, "--until-empty") for _ in range(workers)]
    while any(worker.poll() != 0 for worker in running):
        assert time.monotonic() < deadline, fleet.log.read_text()[-3000:]
        running = [fleet.start(2, "--until-empty") if worker.poll() else worker for worker in running]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("lie", "more"),
    [
        pytest.param("ENOENT", {"PERCENT": 25}, id="a quarter of the renames are done and denied"),
        pytest.param("ESTALE", {"PERCENT": 25}, id="a quarter of the renames are done, and the handle is stale"),
        pytest.param("EIO", {"PERCENT": 1, "JOBS": 60}, id="some renames are done, and the disk has failed"),
        pytest.param("delay", {"PERCENT": 25, "SECONDS": 0.02}, id="a quarter of the renames are answered late"),
        pytest.param("repeat", {"PERCENT": 50, "SECONDS": 0.5}, id="half of the renames are repeated late"),
        pytest.param("EIO", {"PERCENT": 50, "CALLS": "unlink"}, id="half of the removals are denied"),
    ],
)  # fmt: skip
def test_workers_lose_nothing_and_double_nothing(tmp_path: Path, liar: Liar, fleet: Fleet, lie: str, more: Any) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    spool, kept = Spool(tmp_path / "spool", durability="none"), history.History(tmp_path / "history")
    kinds = [("quick", 0), ("quick", 1), ("later", 2), ("permanent", 0)]
    count = more.get("JOBS", JOBS)
    for job_id in spool.enqueue_many(
        [{"command": f"exec sh {JOB} {tmp_path} {kind} {failures}"} for kind, failures in kinds * (count // 4)]
    ):
        kept.note("accepted", id=job_id)
    kept.close()
    fleet.variables = liar(lie, SEED=seed, **more)
    drain(fleet, 2)
    assert (tmp_path / "lies").exists(), "no lie was told"
    fleet.variables = {}
    drain(fleet, 1)
    events = history.read(tmp_path / "history")
    broken = checker.check_history(events) + checker.check_spool(tmp_path / "spool", events, abandoned_drafts=count)
    assert broken + checker.check_processes(tmp_path / "spool") + fleet.tracebacks() == []
    assert " REPEATED " not in (tmp_path / "lies").read_text(), "a repeated rename found something to move"
