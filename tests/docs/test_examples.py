"""The examples of README.md and of the manual work as they stand there."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from queuectl import Spool
from queuectl.core.states import DEAD, FAILED, PENDING, PROCESSING
from queuectl.core.times import stamp

from .pages import DOCS, GUIDE, LANGUAGES, OPERATIONS, README, Section, blocks, read, section, sections
from .runner import Reader, alike, is_talk, matches, steps_of, until

# .ci/run types these two commands: they install things.
INSTALLATION = "Try it"

EXAMPLES = [
    pytest.param(page, one.title, id=f"{page.stem}: {one.title}")
    for page in (README, GUIDE, OPERATIONS)
    for one in sections(page)
    if any(block.language not in ("text", "ini") for block in one.blocks) and one.title != INSTALLATION
]


@pytest.mark.parametrize(("page", "title"), EXAMPLES)
def test_an_example_does_what_the_page_says(page: Path, title: str, tmp_path: Path) -> None:
    one = section(page, title)
    reader = Reader(tmp_path)
    steps = steps_of(one, tmp_path)
    left_out = [step for step in steps if step.block.language == "js" and shutil.which("node") is None]
    steps = [step for step in steps if step not in left_out]
    commands = "\n".join(step.command for step in steps)
    root = tmp_path / "spool"
    if "queuectl init" not in commands:
        Spool(root)
    if root.exists() and steps and assumes_a_worker(commands):
        reader.start_worker()
    try:
        results = reader.play(steps) if steps else []
        for number, (step, result) in enumerate(zip(steps, results, strict=True)):
            place = f"{page.name}, line {step.block.line}: {step.command}\n{result.stdout}{result.stderr}"
            asked = steps[number + 1].command if number + 1 < len(steps) else ""
            assert result.code == 0 or asked == "echo $?", place
            if step.expected is not None:
                expected = alike("\n".join(step.expected), tmp_path)
                talk = [line for line in expected if is_talk(line)]
                data = [line for line in expected if not is_talk(line)]
                assert matches(data, alike(result.stdout, tmp_path)), place
                assert matches(talk, alike(result.stderr, tmp_path)), place
        if root.exists():
            _nothing_is_left_undone(one, Spool(root))
    finally:
        reader.stop_workers()
    if left_out:
        pytest.skip("node is not installed: its blocks were left out")


def assumes_a_worker(commands: str) -> bool:
    """Whether a worker is there already: somebody waits for a job, or nobody starts one."""
    start, wait = commands.find("queuectl worker start"), commands.find("queuectl wait")
    return start < 0 or 0 <= wait < start


def _nothing_is_left_undone(one: Section, spool: Spool) -> None:
    """What an example has dropped is run if a worker is there, and is dead only if the page speaks of that."""
    if any(name.endswith(".json") for name in spool.names("workers")):
        until(lambda: not _due(spool), lambda: f"not run: {_due(spool)}")
    gone = [entry.id for entry in spool.entries([DEAD, FAILED])] + [name for name, _ in spool.rejected()]
    assert not gone or re.search("dlq|dead|cancel", one.text), gone


def _due(spool: Spool) -> list[str]:
    """The jobs that could run now, or do."""
    now = stamp(time.time_ns())
    return [e.name for e in spool.entries([PENDING, PROCESSING]) if not e.id or e.worker or e.not_before <= now]


@pytest.mark.parametrize("page", [README, *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_every_block_says_its_language(page: Path) -> None:
    for block in blocks(read(page)):
        assert block.language in LANGUAGES, f"{page.name}, line {block.line}"


def test_readme_has_the_two_commands_that_ci_runs(tmp_path: Path) -> None:
    from .pages import ROOT

    reader = Reader(tmp_path)
    reader.home = ROOT
    one, two = reader.run("python3", ".ci/readme_commands.py").splitlines()
    assert "install --quiet ." in one
    assert one.endswith(" demo")
    assert "[test]" in two
    assert "pytest -n 3" in two
