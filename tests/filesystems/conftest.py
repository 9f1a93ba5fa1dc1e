"""Mounting needs root, and a kernel that allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.filesystems.mounts import loop, overlay, tmpfs

KINDS: dict[str, Callable[[Path], object]] = {
    "ext4": lambda place: loop(place, "ext4", 16),
    "xfs": lambda place: loop(place, "xfs", 300),
    "btrfs": lambda place: loop(place, "btrfs", 128),
    "tmpfs": lambda place: tmpfs(place),
    "overlayfs": lambda place: overlay(place),
}


@contextmanager
def mounted(kind: str, place: Path) -> Iterator[Spool]:
    with ExitStack() as stack:
        stack.enter_context(KINDS[kind](place))  # type: ignore[arg-type]
        yield Spool(place / "spool")


@pytest.fixture(params=list(KINDS))
def spool_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    """A spool on each kind of file system."""
    with mounted(request.param, tmp_path / "disk") as spool:
        yield spool


@pytest.fixture
def on_ext4(tmp_path: Path) -> Iterator[Spool]:
    """A spool on an ext4 of 16 MB."""
    with mounted("ext4", tmp_path / "disk") as spool:
        yield spool
