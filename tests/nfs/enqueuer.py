"""python -m tests.nfs.enqueuer JOBS HISTORY: enqueues what JOBS says, when it says so, through each door.

It runs on a host that may lose power at any moment: what it has begun is noted in JOBS.begun before, what was accepted
in HISTORY after. Started again, it goes on with the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from queuectl.errors import QueuectlError
from queuectl.spool import Spool
from tests.chaos.history import History


def main() -> None:
    given, history = Path(sys.argv[1]), History(Path(sys.argv[2]))
    plan = json.loads(given.read_text())
    begun = given.with_suffix(".begun")
    first = int(begun.read_text()) if begun.exists() else 0
    spool = Spool()
    clock = time.monotonic() - (plan[first]["at"] if first < len(plan) else 0.0)
    for number, job in enumerate(plan[first:], first):
        time.sleep(max(0.0, clock + job["at"] - time.monotonic()))
        begun.write_text(str(number + 1))
        try:
            job_id = enqueue(spool, job["door"], job["members"])
        except (QueuectlError, OSError) as error:
            print(f"refused: {error}", flush=True)
            continue
        if job_id:
            history.note("accepted", id=job_id)


def enqueue(spool: Spool, door: str, members: dict[str, object]) -> str:
    """The id, or "" if nobody was told that the job is accepted."""
    if door == "api":
        return spool.enqueue(**members)  # type: ignore[arg-type]
    if door == "drop":
        job_id = str(members["id"])
        hidden = os.path.join(spool.root, f".{job_id}")
        Path(hidden).write_text(json.dumps(members))
        os.rename(hidden, os.path.join(spool.root, "pending", f"{job_id}.json"))
        return job_id
    process = subprocess.Popen([sys.executable, "-m", "queuectl", "enqueue", json.dumps(members)],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    if door == "killed cli":
        time.sleep(0.3)
        process.kill()
    out, _ = process.communicate()
    return out.strip() if out.endswith("\n") else ""


if __name__ == "__main__":
    main()
