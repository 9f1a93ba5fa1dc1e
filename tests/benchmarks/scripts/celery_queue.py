"""celery with kombu's file transport, no result backend; `celery worker` runs the jobs out of this same
module.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .common import Queue, main, run_job

_place = os.environ["BENCH_QUEUE"]
for _folder in ("messages", "control"):
    os.makedirs(f"{_place}/{_folder}", exist_ok=True)
app: Any = import_module("celery").Celery("bench", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{_place}/messages",
        "data_folder_out": f"{_place}/messages",
        "control_folder": f"{_place}/control",
    },
    task_ignore_result=True,
)
task: Any = app.task(name="run_job")(run_job)


class Celery(Queue):
    def put(self, command: str) -> None:
        task.delay(command)


if __name__ == "__main__":
    main(Celery)
