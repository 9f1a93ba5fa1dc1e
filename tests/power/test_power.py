"""Power loss: with durability "fsync" every accepted job and every recorded outcome is there, once, in every tree that
a power cut may leave after each call; and without its syncs it is not, which shows that the trees bite."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuectl import lease, orphans
from queuectl.core.names import parse_waiting
from queuectl.disk import DIRECTORIES
from queuectl.errors import IdTaken
from queuectl.spool import Spool
from tests.power.histories import HISTORIES, Acknowledged, History
from tests.power.recorder import Recorder, build, trees
from tests.support import age, body_of, listing, places
from tests.sweep.check import files_by_id
from tests.sweep.operations import recover

NEW = tuple(f"{directory}/" for directory in DIRECTORIES)  # where recovery may make files
LEASE = "crashed-1-0000000000.json"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place in memory, where nothing is looked for among the processes."""
    monkeypatch.setattr(orphans, "find", lambda *_: set())
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def record(history: History, root: Path, ignore: frozenset[str]) -> tuple[Recorder, list[Acknowledged]]:
    """Do it on another boot, and note what was acknowledged when."""
    quiet = Recorder(root)
    history.prepare(Spool(root, durability="none", fs=quiet))
    recorder = Recorder(root, ignore)
    told: list[Acknowledged] = []

    def tell(one: Acknowledged) -> None:
        told.append(one)
        recorder.told = len(told)
        recorder._note("told")

    history.act(Spool(root, durability="fsync", fs=recorder), tell)
    return recorder, told


def losses(history: History, disk: Path, ignore: frozenset[str] = frozenset()) -> tuple[int, list[str]]:
    """How many states a power cut may leave, and what is wrong after the recovery from them."""
    root = disk / "spool"
    Spool(root, durability="none", fs=Recorder(root) if root.exists() else os)
    after = disk / "after"
    shutil.copytree(root, after, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "boot_id", lambda: "another")
        recorder, told = record(history, root, ignore)
    states, wrong = 0, []
    seen: set[tuple[Any, ...]] = set()
    for moment in recorder.moments:
        for tree in trees(moment):
            key = (moment.told, *sorted(tree.items()))
            if key in seen:
                continue
            seen.add(key)
            states += 1
            build({path: content for path, content in tree.items() if path != ".id"}, after)
            try:
                check(after, told[: moment.told], history.name.startswith("enqueue"))
            except (AssertionError, ValueError) as error:
                if len(wrong) < 5:
                    wrong.append(f"after {moment.call}, {sorted(tree)}, told {told[: moment.told][-1:]}: {error}")
            for directory in {os.path.dirname(path) for path in [*tree, *NEW]}:
                for item in os.scandir(after / directory):
                    if item.name != ".id" and not item.is_dir(follow_symlinks=False):
                        os.unlink(item.path)
    return states, wrong


def is_taken(spool: Spool, job_id: str) -> bool:
    try:
        spool.enqueue("true", id=job_id)
    except IdTaken:
        return True
    return False


def check(root: Path, told: list[Acknowledged], enqueued: bool) -> None:
    for one in told if enqueued else ():
        assert is_taken(Spool(root, durability="none"), one.id), f"the id {one.id} could be used again at once"
    (root / "workers" / LEASE).write_text(json.dumps({"boot_id": "another", "role": "worker"}))
    spool = Spool(root, durability="none")
    age(spool)
    recover(spool)
    for name in [name for name in listing(spool, "pending") if parse_waiting(name) is None]:
        try:  # a worker would adopt it again
            spool.adopt(name, time.time_ns())
        except IdTaken as error:
            spool.reject("pending", name, str(error))
    for job_id, files in files_by_id(spool).items():
        assert len(files) == 1, f"job {job_id} lies in {files}"
    last = {one.id: one for one in told}
    for job_id, one in last.items():
        found = places(root, job_id)
        assert found, f"job {job_id} is lost; set aside: {listing(root, 'dead')}"
        assert found[0].partition("/")[0] in one.states, f"job {job_id} is in {found}, not in {set(one.states)}"
        history = body_of(root, job_id).get("history", [])
        assert len(history) >= one.history, f"job {job_id} has forgotten attempts: {history}"
        assert is_taken(spool, job_id), f"the id {job_id} could be used again"
    assert [name for name in listing(spool, ".tmp") if not name.endswith("=spare")] == []


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_every_tree_that_a_power_cut_may_leave_has_each_acknowledged_job_once(
    history: History, disk: Path, record_property: Any
) -> None:
    states, wrong = losses(history, disk)
    record_property("states", states)
    print(f"{history.name}: {states} states")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "forgotten"),
    [("enqueue", "pending"), ("enqueue", "file"), ("enqueue", ".ids"), ("completed", "file"), ("completed", ".tmp")],
)
def test_without_a_sync_something_is_lost(name: str, forgotten: str, disk: Path) -> None:
    (history,) = (one for one in HISTORIES if one.name == name)
    _, wrong = losses(history, disk, frozenset({forgotten}))
    assert wrong, f"no tree shows that the sync of {forgotten} is needed"
