"""The checker bites: each broken promise, crafted, is found; an honest history is not complained about."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import check_history, check_processes, check_spool

A, B = "20261123T000000.000000Z.p0.a1.x@host-1-aaaa.1", "20261123T000001.000000Z.p0.a2.x@host-2-bbbb.1"


def step(event: str, claim: str = A, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {"event": event, "id": "x", "claim": claim, "attempt": attempt, "pid": 7, **more}


HONEST = [
    {"event": "accepted", "id": "x"}, step("start"), step("tick"),
    step("start", B, 2), step("child", B, 2), step("end", B, 2, code=0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        pytest.param(HONEST, "", id="an honest history"),
        pytest.param([step("start"), step("start")], "started 2 times", id="a claim that was started twice"),
        pytest.param([step("start"), step("start", B)], "attempt 1 was started 2 times", id="an attempt made twice"),
        pytest.param([step("start"), step("start", B, 2), step("tick")], "alive (tick)", id="two alive at once"),
        pytest.param([step("start"), step("start", B, 2), step("end", code=0)], "alive (end)", id="a late end"),
        pytest.param([step("start"), step("start", B, 2), step("child")], "alive (child)", id="a late child"),
        pytest.param([step("start", B, 2), step("overlap", B, 2, other=9, **{"with": A})], "was alive", id="in /proc"),
        pytest.param([step("start"), step("end", code=0), step("end", code=0)], "ended twice", id="two ends"),
    ],
)
def test_what_the_history_shows(history: list[dict[str, Any]], complaint: str) -> None:
    found = check_history(history)
    assert bool(found) == bool(complaint), found
    assert complaint in " ".join(found)


def entry(attempt: int, worker: str, **more: Any) -> dict[str, Any]:
    return {"attempt": attempt, "worker": worker, **more}


LOST = entry(1, "host-1-aaaa", reason="lost")
GOOD = {"id": "x", "history": [LOST, entry(2, "host-2-bbbb", exit_code=0)]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("pending", "processing", "failed", "completed", "dead", ".tmp", "workers"):
        (tmp_path / name).mkdir()
    (tmp_path / "completed/x.json").write_text(json.dumps(GOOD))
    return tmp_path


def test_an_honest_spool_is_not_complained_about(tree: Path) -> None:
    assert check_spool(tree, HONEST) == []


@pytest.mark.parametrize(
    ("put", "content", "complaint"),
    [
        pytest.param("completed/x.json", None, "has these files: []", id="a job that is lost"),
        pytest.param("dead/x.json", GOOD, "has these files: ['completed", id="a job in two places"),
        pytest.param("pending/x.json", GOOD, "still there", id="a job that nobody ran"),
        pytest.param(f"processing/{A}.json", GOOD, "still there", id="a claim of nobody"),
        pytest.param("dead/y.json.rejected", {}, "was set aside", id="a job that was set aside"),
        pytest.param(f".tmp/{A}=spent", {}, ".tmp/ still holds", id="a spent claim"),
        pytest.param(".tmp/abc.1=draft", {}, "drafts", id="a draft of nobody"),
        pytest.param("workers/host-1-aaaa.json", {}, "workers/ still holds", id="a lease of nobody"),
        pytest.param("completed/x.json", {"history": [LOST]}, "doesn't know of them", id="an outcome that was dropped"),
        pytest.param("completed/x.json", {"history": [entry(1, "host-1-aaaa", exit_code=0), entry(2, "host-2-bbbb")]},
                     "nobody did that", id="the result of a worker that was fenced"),
        pytest.param("completed/x.json", {"history": [LOST, entry(2, "host-9-zzzz", exit_code=0)]},
                     "nobody did that", id="the result of a worker that never had it"),
        pytest.param("completed/x.json", {"history": [LOST, entry(2, "host-2-bbbb", exit_code=0), LOST]},
                     "tells of attempts [1, 2, 1]", id="an attempt that is told of twice"),
        pytest.param("completed/x.json", {"history": [entry(2, "host-2-bbbb", exit_code=0), entry(3, "b", signal=9)]},
                     "ran again after a success", id="a success that was run again"),
    ],
)  # fmt: skip
def test_what_the_spool_shows(tree: Path, put: str, content: dict[str, Any] | None, complaint: str) -> None:
    if content is None:
        (tree / put).unlink()
    else:
        (tree / put).write_text(json.dumps(content))
    assert complaint in " ".join(check_spool(tree, HONEST))


def test_a_file_that_was_dropped_half_may_be_set_aside(tree: Path) -> None:
    for name in ("half.json.rejected", "half.json.rejected.reason"):
        (tree / "dead" / name).write_text("{")
    assert check_spool(tree, HONEST, half_written={"half.json"}) == []


def test_a_process_that_was_left_behind_is_found(tmp_path: Path) -> None:
    mark = {"QUEUECTL_SPOOL": os.fspath(tmp_path), "QUEUECTL_CLAIM": A}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={**os.environ, **mark}) as left:
        assert [str(left.pid) in sentence for sentence in check_processes(tmp_path)] == [True]
    assert check_processes(tmp_path) == []
