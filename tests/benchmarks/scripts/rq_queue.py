"""rq: only the enqueueing side; `rq worker` runs the jobs, each in a process forked for it."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main

TASK = "tests.benchmarks.scripts.common.run_job"


class Rq(Queue):
    def __init__(self) -> None:
        connection = import_module("redis").Redis(port=int(os.environ["BENCH_PORT"]))
        self._class: Any = import_module("rq").Queue
        self._queue: Any = self._class(connection=connection)

    def put(self, command: str) -> None:
        self._queue.enqueue(TASK, command)

    def put_all(self, commands: list[str]) -> None:
        self._queue.enqueue_many([self._class.prepare_data(TASK, (command,)) for command in commands])


if __name__ == "__main__":
    main(Rq)
