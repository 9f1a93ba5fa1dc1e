"""What the sweeps share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from queuectl import orphans


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[Path]:
    """A directory for a thousand spools: in memory, if there is a place, which takes a tenth of the time."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture(autouse=True)
def no_orphans(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job of these tests runs, so no process is looked for: that would read /proc at each of a thousand points."""
    monkeypatch.setattr(orphans, "find", lambda *_: set())
