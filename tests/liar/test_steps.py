"""Each step of a job's life under each lie: nothing is lost, nothing is there twice, and a lie that can be seen through
is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.liar.conftest import Liar
from tests.support import REPOSITORY, environment, until, whole_tree

ENDED = {"completed": ["back.json", "done.json", "dropped.json"], "dead": ["gone.json"]}


def live(root: Path, lies: Mapping[str, str], *options: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.liar.steps", *options, str(root)], cwd=REPOSITORY, env=environment(**lies),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(root: Path, *, drafts: bool = False) -> None:
    """Each job in its place, and nothing else anywhere. `drafts`: a removal that was lied about may leave some."""
    tree = whole_tree(root)
    assert {state: names for state, names in tree.items() if state in ENDED} == ENDED
    assert [tree[name] for name in ("pending", "processing", "failed", "workers")] == [[], [], [], []]
    assert drafts or tree[".tmp"] == []


@pytest.mark.parametrize("lie", ["ENOENT", "ESTALE"])
def test_every_rename_is_done_and_denied(tmp_path: Path, liar: Liar, lie: str) -> None:
    """R3: whoever looks for its own target needs no second try."""
    said = live(tmp_path / "spool", liar(lie, CALLS="rename", PREFIX=tmp_path / "spool/p"))
    assert said["tried"] == {"open": 1, "lease": 1, "enqueue": 3, "claim": 5, "adopt": 1, "read": 5, "settle": 5}
    check(tmp_path / "spool")
    assert len((tmp_path / "lies").read_text().splitlines()) > 8


@pytest.mark.parametrize("calls", ["rename", "symlink", "link", "unlink"])
@pytest.mark.parametrize("lie", ["ENOENT", "EIO", "ESTALE", "EEXIST"])
def test_each_call_of_a_kind_is_denied_once(tmp_path: Path, liar: Liar, lie: str, calls: str) -> None:
    """The k-th call is done and denied, for each k until there are no more."""
    lives = live(tmp_path / "spool", liar(lie, CALLS=calls), "--each-call")
    assert len(lives) > 1, "no lie was told"
    for number in range(1, len(lives) + 1):
        check(tmp_path / "spool" / str(number), drafts=calls in ("link", "unlink") or lie in ("EIO", "EEXIST"))


def _lies(directory: Path) -> list[str]:
    path = directory / "lies"
    return path.read_text().splitlines() if path.exists() else []


def test_a_rename_that_is_repeated_late_finds_nothing(tmp_path: Path, liar: Liar) -> None:
    """R4: no name is used twice. The liar notes each repetition that moved something."""
    code = "import sys, time; from tests.liar.steps import live; live(sys.argv[1]); time.sleep(1.2)"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spool")], cwd=REPOSITORY, check=True, timeout=60,
        env=environment(**liar("repeat", CALLS="rename", SECONDS="0.3"), PYTHONPATH=str(REPOSITORY)),
    )  # fmt: skip
    told = _lies(tmp_path)
    assert len(told) > 15
    assert [line for line in told if " REPEATED " in line] == []
    check(tmp_path / "spool")


def test_the_liar_itself_lies(tmp_path: Path, liar: Liar) -> None:
    """Each kind of lie is told to plain calls: else all the other tests would show nothing."""
    (tmp_path / "spool").mkdir()
    for lie, number in (("ENOENT", 2), ("EIO", 5), ("ESTALE", 116), ("EEXIST", 17)):
        code = (
            "import os, sys; root = sys.argv[1]\n"
            "for name, call in (('a', lambda p: os.rename(root + '/x', p)), ('s', lambda p: os.symlink('y', p)),\n"
            "                   ('l', lambda p: os.link(root + '/y', p)), ('u', lambda p: os.unlink(root + '/z'))):\n"
            "    for made in 'xyz': open(root + '/' + made, 'w').close()\n"
            "    try: call(root + '/' + name + sys.argv[2])\n"
            f"    except OSError as error: assert error.errno == {number}, error\n"
            "    else: raise SystemExit(name)\n"
        )
        lies = liar(lie, CALLS="rename,link,symlink,unlink")
        command = [sys.executable, "-c", code, str(tmp_path / "spool"), lie]
        subprocess.run(command, check=True, env={**os.environ, **lies})
        assert {name + lie for name in "asl"} <= set(os.listdir(tmp_path / "spool"))
    until(lambda: len(_lies(tmp_path)) == 16, what="sixteen lies are noted")
