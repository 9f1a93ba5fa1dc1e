"""Half a minute of chaos with a new seed each time. `python -m tests.chaos --seed N ...` repeats what failed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.__main__ import run

SECONDS, JOBS, WORKERS = 20, 200, 3


def test_nothing_is_lost_or_doubled_whatever_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.randrange(1 << 32)
    with capsys.disabled():
        print(f" --seed {seed} --seconds {SECONDS} --jobs {JOBS} --workers {WORKERS} ", end="", flush=True)
    broken = run(seed, SECONDS, JOBS, WORKERS, tmp_path, None, print)
    assert not broken, f"python -m tests.chaos --seed {seed}: {broken[:20]}"
