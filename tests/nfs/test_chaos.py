"""A minute of everything at once, with a new seed each time. `python -m tests.nfs.chaos --seed N ...` repeats it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.nfs.chaos import run

SECONDS, JOBS = 45.0, 90


def test_nothing_is_lost_or_doubled_whatever_fails(two: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.randrange(1 << 32)
    vers = two.conf["vers"]
    again = f"python -m tests.nfs.chaos --seed {seed} --seconds {SECONDS:g} --jobs {JOBS} --clients 2 --vers {vers}"
    with capsys.disabled():
        print(f" {again} ", end="", flush=True)
        broken = run(two, seed, SECONDS, JOBS, print)
    assert not broken, f"{again}: {broken[:20]}"
