"""The crash sweep: every operation is killed before its 1st, 2nd, ... last change of the tree.

By fork and a port that kills its own process before the k-th call, which takes 10 ms where strace takes 400;
test_strace.py shows that the port sees every change that strace sees.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.sweep.check import check, recorded
from tests.sweep.operations import Operation, operations
from tests.sweep.port import CREATES, Port, kill_before

MOST_POINTS = 200


def run_in_child(root: Path, operation: Operation, when: int) -> tuple[set[str], bool]:
    """Do an operation in a process of its own that is killed before the change of that number. The ids that it has
    told, and whether it ended by itself."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child makes no use of what threads may have locked
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            port = Port(str(root), CREATES, kill_before(when))
            spool = Spool(root, durability="fsync", fs=port)
            prepared = operation.prepare(spool)
            port.armed = True
            operation.act(spool, prepared, lambda job_id: os.write(theirs, job_id.encode() + b"\n") and None)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(theirs)
    with open(ours, "rb") as told:
        ids = set(told.read().decode().split())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -9), f"{operation.name} failed by itself at point {when}"
    return ids, code == 0


@pytest.mark.parametrize("operation", list(operations()), ids=str)
def test_killed_before_each_change_nothing_is_lost_doubled_or_left(
    operation: Operation, roots: Path, record_property: Callable[[str, object], None]
) -> None:
    for point in range(1, MOST_POINTS):
        root = roots / str(point)
        quiet = Port(str(root), frozenset(), kill_before(0))  # it syncs nothing
        Spool(root, durability="none", fs=quiet)
        accepted, done = run_in_child(root, operation, point)
        spool = Spool(root, durability="none", fs=quiet)
        try:
            check(spool, operation, accepted, recorded(spool), done)
        except AssertionError as error:
            error.add_note(f"{operation.name}, killed before change {point}: {root}")
            raise
        if done:
            record_property("points", point)
            print(f"{operation.name}: {point} points")
            return
    pytest.fail(f"more than {MOST_POINTS} changes")
