"""beanstalkd by greenstalk: a worker reserves, runs, deletes (or buries a job that failed)."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main


class Beanstalk(Queue):
    def __init__(self) -> None:
        self._module: Any = import_module("greenstalk")
        self._client: Any = self._module.Client(("127.0.0.1", int(os.environ["BENCH_PORT"])))

    def put(self, command: str) -> None:
        self._client.put(command)

    def take(self, block: bool) -> tuple[Any, str] | None:
        try:
            job = self._client.reserve(timeout=None if block else 0)
        except self._module.TimedOutError:
            return None
        return job, job.body

    def settle(self, handle: Any, success: bool) -> None:
        (self._client.delete if success else self._client.bury)(handle)


if __name__ == "__main__":
    main(Beanstalk)
