"""litequeue: a table in SQLite (WAL, synchronous=NORMAL, its defaults). Done and failed jobs stay in the
table.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main


class Litequeue(Queue):
    def __init__(self) -> None:
        # SQLite's default wait for a lock, 5 s, can be too short on a slow disk
        self._queue: Any = import_module("litequeue").LiteQueue(os.environ["BENCH_QUEUE"], timeout=60)

    def put(self, command: str) -> None:
        self._queue.put(command)

    def put_all(self, commands: list[str]) -> None:
        with self._queue.transaction():
            for command in commands:
                self._queue.put(command)

    def take(self, block: bool) -> tuple[Any, str] | None:
        message = self._queue.pop()
        return None if message is None else (message.message_id, message.data)

    def settle(self, handle: Any, success: bool) -> None:
        (self._queue.done if success else self._queue.mark_failed)(handle)


if __name__ == "__main__":
    main(Litequeue)
