"""The history of a run: one JSON line for each step, appended by the driver and by the jobs themselves.

It lies outside the spool, so that what the spool loses is still known here. A line is one write with O_APPEND: the
order of the lines is the order in which things happened.

    {"event": "accepted", "id": ...}                                    enqueue was acknowledged
    {"event": "start", "id", "attempt", "claim", "pid", "pgid", ...}    an attempt's command runs
    {"event": "child" | "tick", ...}                                    a process of that attempt is alive
    {"event": "overlap", ..., "with": claim}                            it found an earlier attempt's process alive
    {"event": "end", ..., "code": n}                                    it is about to exit with that code
    {"event": "kill", ..., "worker": pid}                               it is about to kill its worker
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class History:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, event: str, **members: Any) -> None:
        os.write(self._fd, json.dumps({"event": event, **members}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
