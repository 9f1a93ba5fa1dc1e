"""The error sweep: every call of every operation is refused once, or from then on for a while.

Whatever the error is, it is told as a SpoolError with a path, an errno and a remedy in words; it is never taken for a
lost race, an unknown job or a taken id; nothing is lost, nothing is left, and it works when the fault is gone.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuectl.errors import IdTaken, SpoolError
from queuectl.lease import Lease
from queuectl.spool import Spool
from tests.support import leftovers, places
from tests.sweep.check import check, recorded
from tests.sweep.operations import Operation, operations
from tests.sweep.port import CREATES, EVERYTHING, Port, refuse

MOST_POINTS = 400
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
LOOKING = (errno.EIO, errno.ESTALE, errno.EMFILE)


def _applies(error: int, call: str) -> bool:
    """Whether a kernel would answer this call with this error."""
    name = call.partition(" ")[0]
    if error == errno.EMFILE:
        return name in ("open", "create", "listdir", "scandir")
    return not (error in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and name not in CREATES)


def _run(root: Path, operation: Operation, before: Callable[[int, str], None]) -> tuple[Port, Exception | None]:
    """Prepare an operation, do it with the port armed, and check the tree afterwards. The error that it raised."""
    quiet = Port(str(root), frozenset(), before)
    Spool(root, durability="none", fs=quiet)
    port = Port(str(root), EVERYTHING, before)
    spool = Spool(root, durability="fsync", fs=port)
    prepared = operation.prepare(spool)
    accepted: set[str] = set()
    port.armed = True
    raised = None
    try:
        operation.act(spool, prepared, accepted.add)
    except (SpoolError, OSError, IdTaken) as error:
        raised = error
    port.armed = False
    clean = not any(name.endswith("=draft") for name in leftovers(spool))
    assert clean or _last(port).startswith("unlink"), f"left behind: {leftovers(spool)}"
    if raised is not None:
        _check_told(raised)
        try:
            operation.act(spool, prepared, accepted.add)  # it works again
        except IdTaken:
            assert places(spool, "mine"), "the id is taken, and there is no job"
    if prepared and isinstance(prepared, tuple) and isinstance(prepared[0], Lease):
        prepared[0].release()
    check(Spool(root, durability="none", fs=quiet), operation, accepted, recorded(spool), True,
          raised is not None)
    return port, raised


def _last(port: Port) -> str:
    return port.calls[-1] if port.calls else ""


def _check_told(raised: Exception) -> None:
    assert isinstance(raised, SpoolError), f"{raised!r} is no SpoolError"
    assert raised.errno, raised
    assert raised.path.startswith("/"), raised
    assert re.search(r"\. [A-Z`].+\.$", str(raised)), f"no remedy: {raised}"


def _points(operation: Operation, roots: Path, watched: Callable[[int, str], bool]) -> list[tuple[int, str]]:
    port, raised = _run(roots / "clean", operation, lambda number, call: None)
    assert raised is None
    assert len(port.calls) < MOST_POINTS
    return [(number, call) for number, call in enumerate(port.calls, 1) if watched(number, call)]


@pytest.mark.parametrize("operation", list(operations()), ids=str)
def test_refused_once_at_any_call_it_is_told_and_works_again(
    operation: Operation, roots: Path, record_property: Any
) -> None:
    faults: list[str] = []
    points = 0
    for number, call in _points(operation, roots, lambda *_: True):
        for error in (*DISK, errno.ESTALE, errno.EMFILE):
            if not _applies(error, call):
                continue
            points += 1
            root = roots / f"{number}-{errno.errorcode[error]}"
            try:
                _, raised = _run(root, operation, refuse(number, error))
                assert raised or not call.startswith("fsync"), "a sync failed, and nobody was told"
            except Exception as problem:
                faults.append(f"{errno.errorcode[error]} at {number} ({call}): {type(problem).__name__} {problem}")
    record_property("points", points)
    print(f"{operation.name}: {points} points")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("operation", list(operations()), ids=str)
def test_refused_from_any_change_on_it_is_told_and_works_again(operation: Operation, roots: Path) -> None:
    faults: list[str] = []
    for number, call in _points(operation, roots, lambda _, call: _applies(errno.ENOSPC, call)):
        root = roots / str(number)
        try:
            _run(root, operation, refuse(number, errno.ENOSPC, lasting=True))
        except Exception as problem:
            faults.append(f"full from {number} on ({call}): {type(problem).__name__} {problem}")
    assert not faults, "\n".join(faults)
    assert os.path.isdir(roots)
