"""huey, on files or on SQLite (BENCH_STORAGE); huey_consumer runs the jobs out of this same module."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main, run_job


def _storage() -> Any:
    module = import_module("huey")
    place = os.environ["BENCH_QUEUE"]
    if os.environ["BENCH_STORAGE"] == "file":
        return module.FileHuey("bench", path=place, results=True)
    return module.SqliteHuey("bench", filename=place, results=True)


huey: Any = _storage()
task: Any = huey.task(name="run_job")(run_job)


class Huey(Queue):
    def put(self, command: str) -> None:
        task(command)


if __name__ == "__main__":
    main(Huey)
