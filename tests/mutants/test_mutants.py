"""Each mutant in table.py is killed by its test. A patch that no longer applies fails too: then the table is old."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, Mutant
from tests.support import REPOSITORY

LIMIT = 60.0  # seconds; a mutant takes one or two


def run_test(tree: Path, killer: str) -> subprocess.CompletedProcess[str]:
    """Run one test in a copy of the tree; nothing but that copy is imported."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist",
        "--rootdir", str(tree), "-c", os.devnull, "--basetemp", str(tree / "tmp"), killer,
    ]  # fmt: skip
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("QUEUECTL_", "PYTEST_"))}
    environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=tree, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("queuectl", "tests/mutants"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "support.py"):
        shutil.copy(REPOSITORY / "tests" / name, tmp_path / "tests" / name)
    return tmp_path


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(tree: Path, mutant: Mutant) -> None:
    path = tree / "queuectl" / mutant.file
    source = path.read_text()
    assert source.count(mutant.old) == 1, f"the patch no longer applies to {mutant.file}; bring table.py up to date"
    path.write_text(source.replace(mutant.old, mutant.new))
    done = run_test(tree, mutant.killer)
    assert done.returncode == 1, f"the mutant survived {mutant.killer}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "1 failed" in done.stdout, done.stdout[-2000:]


def test_what_kills_mutants_passes_without_them(tree: Path) -> None:
    """Else a killer might fail for another reason."""
    done = run_test(tree, "tests/mutants/test_mechanisms.py")
    assert done.returncode == 0, done.stdout[-3000:]
    killers = {mutant.killer.partition("::")[2] for mutant in MUTANTS}
    there = (tree / "tests/mutants/test_mechanisms.py").read_text()
    assert [killer for killer in killers if f"def {killer}(" not in there] == []
