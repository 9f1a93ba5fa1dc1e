"""Recoverers that die too, and what a crash of the machine may leave of a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from queuectl.core.backoff import Policy
from queuectl.core.names import parse_record
from queuectl.errors import BadJob
from queuectl.lease import Census
from queuectl.recover import Recovery
from tests.spool.faults import every_call
from tests.spool.stage import Stage, Stages
from tests.support import die, leftovers, places, settlement, state_of


def before_the_record(stage: Stage) -> None:
    stage.claimed(started=True)


def with_a_record(stage: Stage) -> None:
    one = settlement(stage.doomed, stage.claimed(started=True), "completed")
    stage.doomed._write_record(one.record, one.data, [])


def past_the_fence(stage: Stage) -> None:
    one = settlement(stage.doomed, stage.claimed(started=True), "completed")
    stage.doomed._write_record(one.record, one.data, [])
    os.rename(stage.spool.dir("processing") + one.record.claim.name, stage.spool.dir(".tmp") + one.record.claim.spent)


def published(stage: Stage) -> None:
    past_the_fence(stage)
    (record,) = [record for name in leftovers(stage.spool) if (record := parse_record(name))]
    assert stage.spool.publish(record)


@pytest.mark.parametrize(
    ("left", "state"),
    [(before_the_record, "failed"), (with_a_record, "completed"), (past_the_fence, "completed"),
     (published, "completed")],
)  # fmt: skip
def test_a_recoverer_that_dies_too_is_recovered_from(
    stages: Stages, left: Callable[[Stage], None], state: str, tmp_path: Path
) -> None:
    """Row 5: the attempt is counted once, and the outcome is that of the first."""

    def run(k: int) -> bool:
        stage = stages(k)
        first = Stage(Path(stage.spool.root), "none")
        left(first)
        die(first.lease)
        census = recovery_of(stage)
        finished = stage.play(census, k)
        stage.clear_up()
        assert state_of(stage.spool, "job1") == state
        job = stage.spool.load(next(iter(stage.spool.entries())))
        assert job is not None
        assert job.body["attempts"] == 1
        assert len(job.history) == 1
        return finished

    assert every_call(run) >= 2


def recovery_of(stage: Stage) -> Callable[[], bool]:
    census = Census(stage.doomed, 120.0, stage.lease.worker)
    recovery = Recovery(stage.doomed, stage.lease, Policy, lambda level, text: None)
    return lambda: recovery.run(lambda: census.look(time.monotonic()), time.time_ns())


def test_a_half_written_record_of_a_dead_worker_is_not_believed(tmp_path: Path) -> None:
    """After a power cut a name may be there without its content, or with what the inode held before."""
    for n, content in enumerate([b"", b"\0" * 100, b'{"command": "tr', b'{"command": "true"}',
                                 b'{"command": "true", "id": "job1", "claim": "somebody else\'s"}']):  # fmt: skip
        stage = Stage(tmp_path / f"spool{n}", "none")
        with_a_record(stage)
        (name,) = leftovers(stage.spool)
        Path(stage.spool.dir(".tmp") + name).write_bytes(content)
        die(stage.lease)
        stage.clear_up()
        assert state_of(stage.spool, "job1") == "failed"


def test_a_claim_whose_file_is_no_job_any_more_is_set_aside(tmp_path: Path) -> None:
    """Row 12."""
    stage = Stage(tmp_path / "spool", "none")
    claim = stage.claimed()
    Path(stage.spool.dir("processing") + claim.name).write_bytes(b"\0" * 4096)
    die(stage.lease)
    with pytest.raises(BadJob):
        stage.spool.read_claim(claim)
    stage.clear_up()
    assert places(stage.spool, "job1") == []
    ((name, reason),) = stage.spool.rejected()
    assert reason == "the file is empty; it needs a JSON object with a command"
    assert Path(stage.spool.dir("dead") + name).read_bytes() == b"\0" * 4096
