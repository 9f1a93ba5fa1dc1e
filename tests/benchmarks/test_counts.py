"""A job and an `enqueue` must not cost more system calls than counts.json says, unless CHANGELOG.md tells of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.benchmarks import counts

MORE = 1.10
ONCE_IN_A_WHILE = 0.3
"""Calls a job that a single name may swing by: some are made only when two things happen at once."""
REMEDY = (
    "If that is what it must cost: `python -m tests.benchmarks.counts` writes counts.json, and a line in CHANGELOG.md "
    "says `N system calls a job` or `N calls of enqueue`."
)


def committed() -> dict[str, Any]:
    found = json.loads(counts.FILE.read_text())
    assert isinstance(found, dict)
    return found


def grown(before: dict[str, float], now: dict[str, float], each: bool = True) -> list[str]:
    """What is more than a tenth above what it was: in all, and for each name."""
    pairs = {"in all": (sum(before.values()), sum(now.values()))}
    if each:
        pairs |= {name: (before.get(name, 0) + ONCE_IN_A_WHILE / MORE, value) for name, value in now.items()}
    return [f"{name}: {then:.2f} -> {value:.2f}" for name, (then, value) in pairs.items() if value > then * MORE]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("durability", ["none", "fsync"])
def test_a_job_costs_no_more_system_calls_than_committed(durability: str) -> None:
    for _ in range(8):  # on a machine that is busy jobs seem long, and fewer share a sync: it doesn't grow each time
        more = grown(committed()[f"job, {durability}"], counts.per_job(durability))
        if not more:
            return
    assert not more, f"system calls a job grew: {more}. {REMEDY}"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_enqueue_makes_no_more_calls_and_imports_no_more_modules_than_committed() -> None:
    if committed()["python"] != counts.python():
        pytest.skip(f"counts.json is of Python {committed()['python']}")
    before, now = committed()["enqueue"], counts.per_enqueue()
    more = {name: (before[name], now[name]) for name in now if now[name] > before[name] * MORE}
    assert not more, f"enqueue grew: {more}. {REMEDY}"


def test_a_committed_figure_that_grew_stands_in_the_changelog() -> None:
    name = counts.FILE.relative_to(counts.FILE.parents[2])

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=counts.FILE.parents[2], capture_output=True, text=True, check=False)
        return done.stdout

    versions = git("log", "--format=%H", "--", str(name)).split()
    texts = [git("show", f"{version}:{name}") for version in versions]
    # what is here may not be committed yet
    texts = [text for text in texts if text and json.loads(text) != committed()]
    if not texts:
        pytest.skip("needs git and an earlier counts.json")
    before, now = json.loads(texts[0]), committed()
    changelog = (counts.FILE.parents[2] / "CHANGELOG.md").read_text()
    for figure, words in (("job, none", "system calls a job"), ("job, fsync", "system calls a job")):
        if grown(before[figure], now[figure], each=False):
            assert f"{sum(now[figure].values()):.0f} {words}" in changelog, f"{figure} grew, CHANGELOG.md is silent"
    if now["enqueue"]["calls"] > before["enqueue"]["calls"] * MORE:
        assert f"{now['enqueue']['calls']} calls of enqueue" in changelog, "enqueue grew, CHANGELOG.md is silent"


def test_the_guard_sees_a_call_more() -> None:
    """That it can fail: one rename more a job, and the sum of small things."""
    before = {"rename": 5.0, "openat": 2.0, "close": 3.0}
    assert not grown(before, before)
    assert grown(before, {**before, "rename": 6.0}) == ["rename: 5.27 -> 6.00"]
    assert grown(before, {**before, "fsync": 1.0})
