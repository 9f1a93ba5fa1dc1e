"""dirq: a directory of files, a lock is a hard link. Two bare loops; nothing is kept of a job that is
done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from .common import Queue, main


class Dirq(Queue):
    def __init__(self) -> None:
        self._queue: Any = import_module("dirq.QueueSimple").QueueSimple(os.environ["BENCH_QUEUE"])
        self._names: Iterator[str] = iter(())

    def put(self, command: str) -> None:
        self._queue.add(command)

    def take(self, block: bool) -> tuple[Any, str] | None:
        for again in (False, True):
            if again:
                self._names = iter(self._queue)
            for name in self._names:
                if self._queue.lock(name):
                    return name, self._queue.get(name).decode()
        return None

    def settle(self, handle: Any, success: bool) -> None:
        self._queue.remove(handle)


if __name__ == "__main__":
    main(Dirq)
