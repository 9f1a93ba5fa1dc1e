"""A clock that was ahead, and is set right: nobody waits until the wrong time (R11)."""

from __future__ import annotations

from pathlib import Path

from queuectl.spool import Spool
from tests.faults.patched import patched
from tests.faults.test_time import HOUR, SHIFT
from tests.support import body_of, queuectl, until, worker


def test_a_dead_job_is_requeued_at_once_though_it_died_by_a_clock_that_was_ahead(spool: Spool, tmp_path: Path) -> None:
    """R11: it waited until that wrong time."""
    ahead = tmp_path / "ahead"
    ahead.write_text(str(30 * HOUR))
    spool.enqueue("false", id="one", max_retries=0)
    with patched(spool, SHIFT.format(path=str(ahead))):
        until(lambda: spool.has_ended("one", "dead"), what="it dies")
    assert queuectl(spool, "dlq", "retry", "one").returncode == 0
    assert "none is alive" in queuectl(spool, "show", "one").stdout
    with worker(spool):
        until(lambda: spool.has_ended("one", "dead"), what="it runs again")
    assert len(body_of(spool, "one")["history"]) == 2


def test_a_retry_waits_for_its_backoff_only_though_the_clock_was_set_back_while_it_ran(
    spool: Spool, tmp_path: Path
) -> None:
    ahead, gate = tmp_path / "ahead", tmp_path / "gate"
    ahead.write_text(str(HOUR))
    with patched(spool, SHIFT.format(path=str(ahead))) as process:
        (Path(spool.dir("pending")) / "x.json").write_text(
            f'{{"command": "until [ -e {gate} ]; do sleep 0.02; done; false", "id": "one", "backoff_base": 0}}'
        )
        until(lambda: Path(spool.dir("logs"), "one.1.log").exists(), what="it runs")
        ahead.write_text("0")
        gate.touch()
        until(lambda: "failed (attempt 1" in process.said, what="it has failed")
        until(lambda: "attempt 2" in process.said, what="it runs again")
