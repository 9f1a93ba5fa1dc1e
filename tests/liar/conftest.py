"""Compiles the liar once, with the system's own compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("liar.c")
Liar = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the liar is written in C, and there is no cc")
    built = tmp_path_factory.mktemp("liar") / "liar.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(built), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture
def liar(library: Path, tmp_path: Path) -> Liar:
    """Environment variables under which a process is lied to about everything in tmp_path/spool. The lies told are in
    tmp_path/lies."""

    def lies(kind: str, **more: object) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library), "LIAR_LIE": kind, "LIAR_PREFIX": str(tmp_path / "spool") + "/",
            "LIAR_LOG": str(tmp_path / "lies"), **{f"LIAR_{name}": str(value) for name, value in more.items()},
        }  # fmt: skip

    return lies
