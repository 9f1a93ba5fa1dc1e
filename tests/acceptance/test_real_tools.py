"""The product as its users meet it: one job for each module of the standard library, dropped by real tools, run by one
real worker with four slots, each result checked against its source."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.support import STATES, environment, listing, queuectl, until, worker

SOURCES = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
SOURCES = [path for path in SOURCES if "site-packages" not in path.parts and path.stat().st_size][:560]
CHUNKS = 20  # pieces in which the slow writer writes


def shell(script: str, *arguments: str) -> None:
    subprocess.run(["/bin/sh", "-euc", script, "sh", *arguments], check=True, env=environment())


def by_cp(text: str, source: Path, target: str) -> None:
    shell('cp "$1" "$2"', str(source), target)


def by_mv(text: str, source: Path, target: str) -> None:
    shell('mv "$1" "$2"', str(source), target)


def by_mv_from_another_file_system(text: str, source: Path, target: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm", suffix=".json", delete=False) as file:
        file.write(text)
    shell('mv "$1" "$2"', file.name, target)


def by_redirection(text: str, source: Path, target: str) -> None:
    shell('cat "$1" > "$2"', str(source), target)


def by_tee(text: str, source: Path, target: str) -> None:
    shell('tee "$2" < "$1" > /dev/null', str(source), target)


def by_install(text: str, source: Path, target: str) -> None:
    shell('install -m 600 "$1" "$2"', str(source), target)


def by_rsync(text: str, source: Path, target: str) -> None:
    shell('rsync "$1" "$2"', str(source), target)


def by_writing_then_renaming(text: str, source: Path, target: str) -> None:
    shell('cat "$1" > "$2.part"; mv "$2.part" "$2"', str(source), target)


def by_python(text: str, source: Path, target: str) -> None:
    with open(target, "w", encoding="utf-8") as file:
        json.dump(json.loads(text), file, indent=1)


def by_node(text: str, source: Path, target: str) -> None:
    script = "const fs = require('fs'); fs.writeFileSync(process.argv[2], fs.readFileSync(process.argv[1]))"
    subprocess.run(["node", "-e", script, str(source), target], check=True)


def by_writing_slowly(text: str, source: Path, target: str) -> None:
    # Two seconds in all, in small pieces with the file open: what the worker must not take for a broken job.
    script = f"""
import select, sys
text = open(sys.argv[1]).read()
step = len(text) // {CHUNKS} + 1
with open(sys.argv[2], "w", buffering=1) as file:
    for start in range(0, len(text), step):
        file.write(text[start:start + step])
        file.flush()
        select.select([], [], [], 2 / {CHUNKS})
"""
    subprocess.run(["python3", "-c", script, str(source), target], check=True)


TOOLS: list[Callable[[str, Path, str], None]] = [
    by_cp, by_mv, by_mv_from_another_file_system, by_redirection, by_tee, by_install, by_rsync,
    by_writing_then_renaming, by_python, by_node,
]  # fmt: skip


def needed(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")


def job_for(source: Path, results: Path) -> dict[str, Any]:
    target = results / (hashlib.sha1(os.fsencode(source)).hexdigest() + ".gz")
    return {
        "command": f'gzip -9 < "$SOURCE" > "$TARGET.tmp" && mv "$TARGET.tmp" "$TARGET" && sha256sum < "$SOURCE" > '
        f'"$TARGET.sum" && echo packed {source.name}',
        "env": {"SOURCE": str(source), "TARGET": str(target)},
        "note": {"a member that queuectl doesn't know": source.name},
    }


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_a_job_for_each_module_of_the_standard_library_by_every_way_there_is(tmp_path: Path, results: Path) -> None:
    needed("rsync")
    needed("node")
    assert len(SOURCES) > 500
    root = tmp_path / "spool"
    assert queuectl(root, "init").returncode == 0
    assert queuectl(root, "config", "set", "backoff-base", "0.3").returncode == 0
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    by_tool = SOURCES[: len(SOURCES) * 3 // 4]
    slowly, in_a_batch = SOURCES[len(by_tool) : len(by_tool) + 8], SOURCES[len(by_tool) + 8 :]

    def drop(numbered: tuple[int, Path, Callable[[str, Path, str], None]]) -> None:
        number, source, tool = numbered
        text = json.dumps(job_for(source, results))
        draft = drafts / f"{number}.json"
        draft.write_text(text)
        tool(text, draft, f"{root}/pending/{tool.__name__}-{number}.json")

    with worker(root, "--count", "4") as process:
        work = [(n, source, tool) for n, (source, tool) in enumerate(zip(by_tool, cycle(TOOLS), strict=False))]
        work += [(10_000 + n, source, by_writing_slowly) for n, source in enumerate(slowly)]
        failing = [
            queuectl(root, "enqueue", "--max-retries", "2", "--id", f"bad-{n}", "echo trying; exit 3") for n in range(3)
        ]
        assert [(f.returncode, f.stderr) for f in failing] == [(0, "")] * 3
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(drop, work))
        batch = tmp_path / "batch.jsonl"
        batch.write_text("".join(json.dumps(job_for(source, results)) + "\n" for source in in_a_batch))
        printed = queuectl(root, "enqueue", "--batch", str(batch))
        assert (printed.returncode, len(printed.stdout.split())) == (0, len(in_a_batch)), printed.stderr
        until(lambda: len(listing(root, "completed")) == len(SOURCES) and len(listing(root, "dead")) == 3, 60,
              what="all jobs have ended")  # fmt: skip
        assert process.end() == 0, process.said

    for source in SOURCES:
        target = results / (hashlib.sha1(os.fsencode(source)).hexdigest() + ".gz")
        assert gzip.decompress(target.read_bytes()) == source.read_bytes(), source
        checksum = Path(f"{target}.sum").read_text().split()[0]
        assert checksum == hashlib.sha256(source.read_bytes()).hexdigest(), source
    assert {state: len(listing(root, state)) for state in STATES} == {
        "pending": 0, "processing": 0, "completed": len(SOURCES), "failed": 0, "dead": 3,
    }  # fmt: skip
    assert listing(root, ".tmp") == []
    assert listing(root, "workers") == []
    for number in range(3):
        check_retries(json.loads((root / "dead" / f"bad-{number}.json").read_text()))
    one = json.loads(next((root / "completed").iterdir()).read_text())
    assert one["note"].keys() == {"a member that queuectl doesn't know"}
    assert one["attempts"] == 1
    assert (root / "logs" / one["history"][0]["log"]).read_text().startswith("packed ")


def check_retries(job: dict[str, Any]) -> None:
    """Three attempts, 0.3 and 0.09 seconds between an end and the next start, and none before its time."""
    from datetime import datetime

    assert [entry["exit_code"] for entry in job["history"]] == [3, 3, 3]
    assert (job["attempts"], job["last_error"]) == (3, "exit code 3")
    for attempt, (before, after) in enumerate(zip(job["history"], job["history"][1:], strict=False), 1):
        ended, started = datetime.fromisoformat(before["finished_at"]), datetime.fromisoformat(after["started_at"])
        assert (started - ended).total_seconds() >= 0.3**attempt - 0.001
