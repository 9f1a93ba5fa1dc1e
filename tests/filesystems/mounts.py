"""Real file systems for a test: made in a file, mounted by a loop device, unmounted in the end, whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run(*command: str | Path, check: bool = True) -> int:
    """Run one command; its exit code."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.returncode


def unmount(place: Path) -> None:
    while os.path.ismount(place):
        run("umount", "-l", place)


@contextmanager
def loop(place: Path, kind: str, megabytes: int, *options: str, mount: str = "loop") -> Iterator[Path]:
    """A file system of that kind, mounted at `place`. Skips the test if its tools or the kernel don't have it."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind}")
    image = place.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    run(f"mkfs.{kind}", "-q", *options, image)
    place.mkdir()
    if run("mount", "-o", mount, image, place, check=False):
        pytest.skip(f"cannot mount {kind} by a loop device here")
    try:
        yield place
    finally:
        unmount(place)


@contextmanager
def tmpfs(place: Path, size: str = "32m") -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    if run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", place, check=False):
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield place
    finally:
        unmount(place)


@contextmanager
def overlay(place: Path) -> Iterator[Path]:
    """An overlayfs whose layers lie in a tmpfs."""
    with tmpfs(place.with_suffix(".layers")) as layers:
        for name in ("lower", "upper", "work"):
            (layers / name).mkdir()
        place.mkdir()
        options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
        if run("mount", "-t", "overlay", "-o", options, "overlay", place, check=False):
            pytest.skip("cannot mount an overlayfs here")
        try:
            yield place
        finally:
            unmount(place)


def fill(directory: Path) -> Path:
    """A file that takes all the room there is."""
    path = directory / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue
    return path
