"""queuectl by its Python API."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main


class Queuectl(Queue):
    def __init__(self) -> None:
        self._spool: Any = import_module("queuectl").Spool(os.environ["BENCH_QUEUE"])

    def put(self, command: str) -> None:
        self._spool.enqueue(command)


if __name__ == "__main__":
    main(Queuectl)
