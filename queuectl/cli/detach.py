"""`worker start --detach`: a worker in the background.

Owns the new process: its own session, nothing of our terminal, what it says in logs/. Returns when it has registered,
so that a script may count on it, or when it has ended.

When things go wrong: the end of its log is shown, and the exit code is the worker's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from queuectl.cli.render import block, say, to_json
from queuectl.core.times import stamp
from queuectl.disk import LOGS, token
from queuectl.errors import OK, SPOOL, SpoolError
from queuectl.lease import workers
from queuectl.runner import own_environment
from queuectl.spool import Spool

LIMIT = 60.0  # seconds until a worker that neither registers nor ends is given up
LAST_LINES = 10


def start_detached(spool: Spool, arguments: list[str], *, as_json: bool) -> int:
    """Start a worker with these arguments, and print its id."""
    spool.check_owner()  # before there is a log, of which the owner would be another
    name = f"worker-{stamp(time.time_ns())[:15]}Z-{token()}.log"  # no dot: it is no attempt's log
    log = spool.open_log(name)
    try:
        process = subprocess.Popen(
            [sys.executable, *module_flags(), "-m", "queuectl", "--spool", spool.root, "worker", "start", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True,
            env=own_environment(),
        )  # fmt: skip
    except OSError as error:
        raise SpoolError.of(error, "start a worker", sys.executable) from None
    finally:
        os.close(log)
    try:
        worker = _await_start(spool, process, spool.dir(LOGS) + name)
    except KeyboardInterrupt:
        process.terminate()
        process.returncode = 0  # it is not waited for
        say("The worker that was being started has been told to stop.")
        raise
    if worker:
        print(to_json({"id": worker}) if as_json else worker)
    return OK


def module_flags() -> list[str]:
    """With -P Python doesn't look for modules in the working directory, whoever owns it. Only a queuectl that was
    itself found there (a source tree) needs that."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [] if os.path.abspath(sys.path[0]) == home else ["-P"]


def _await_start(spool: Spool, process: subprocess.Popen[bytes], log: str) -> str | None:
    """The id under which it has registered; None if it has ended well before it was seen. SpoolError."""
    deadline, pause = time.monotonic() + LIMIT, 0.01
    while True:
        ended = process.poll()
        for worker in workers(spool):
            if worker.pid == process.pid and worker.mine and worker.alive:
                process.returncode = 0  # we leave it alone; without this Python warns that it still runs
                return worker.id
        if ended == OK:
            say(f"The worker has ended already: nothing was left to do. Its log is {log}.")
            return None
        if ended is not None or time.monotonic() > deadline:
            state = "has ended" if ended is not None else "has not registered yet"
            last = tail(log)
            said = f"ends: {last}" if last else "is empty. `queuectl worker start` without --detach shows what it says."
            error = SpoolError(f"The worker {state}. Its log, {log}, {said}", path=log)
            error.exit_code = ended or SPOOL
            raise error
        time.sleep(pause)
        pause = min(1.5 * pause, 0.2)


def tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            lines = file.read()[-8192:].decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        lines = []
    return block(" / ".join(lines[-LAST_LINES:]), "")
