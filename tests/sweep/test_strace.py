"""strace's word against the port's: every change of the tree that the kernel sees goes through the port; and a handful
of points of the crash sweep with a real program that strace kills in the call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from queuectl.spool import Spool
from tests.support import environment
from tests.sweep.check import check, recorded
from tests.sweep.operations import Operation, operations
from tests.sweep.port import CREATES, Port, count

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

TRACED = "rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat,mkdir,mkdirat,openat,write,pwrite64"
TRACED += ",fsync,fdatasync,syncfs,ftruncate,fchmod,chmod,fallocate,copy_file_range,sendfile"
BEGIN = "/no/such/place"  # mkdir fails there: the mark from which the trace counts
# What is no change of a job: the locks of filelock (and its mkdir of what is there), and the mark.
BESIDE = (".lock", BEGIN)
DRIVER = f"""
import os, sys
from queuectl.spool import Spool
from tests.sweep.operations import operations
operation = {{str(one): one for one in operations()}}[sys.argv[2]]
spool = Spool(sys.argv[1], durability="fsync")
prepared = operation.prepare(spool)
try:
    os.mkdir({BEGIN!r})
except OSError:
    pass
operation.act(spool, prepared, lambda job_id: print(job_id, flush=True))
"""
BY_NAME = {str(one): one for one in operations()}


def strace(root: Path, operation: Operation, *options: str) -> tuple[set[str], int, list[str]]:
    """Run an operation in a process of its own under strace: the ids told, its exit code, the trace."""
    trace = root.with_suffix(".trace")
    told = subprocess.run(
        ["strace", "-f", "-y", "-qq", "-s", "0", "-e", "signal=none", "-o", str(trace), *options,
         sys.executable, "-c", DRIVER, str(root), str(operation)],
        stdout=subprocess.PIPE, text=True, timeout=60, env=environment(PYTHONDONTWRITEBYTECODE="1"), check=False,
    )  # fmt: skip
    return set(told.stdout.split()), told.returncode, trace.read_text(errors="replace").splitlines()


def changes(lines: list[str], root: Path) -> list[str]:
    """The kinds of the changes below `root` after the mark, in the port's words."""
    start = next(number for number, line in enumerate(lines) if BEGIN in line)
    found = []
    for line in lines[start + 1 :]:
        if str(root) not in line or " = -1 EEXIST" in line or any(word in line for word in BESIDE):
            continue
        name = re.sub(r"^\d+\s+", "", line).partition("(")[0].removesuffix("at").removesuffix("at2")
        if name == "open":
            if "O_CREAT" in line:
                found.append("create")
        else:
            found.append({"renameat2": "rename", "pwrite64": "write"}.get(name, name))
    return found


@pytest.mark.parametrize(
    "name", ["enqueue a batch", "settle 3 completed with a spare", "requeue", "config set", "prune"]
)
def test_strace_sees_no_change_that_the_port_does_not_see(name: str, tmp_path: Path) -> None:
    operation = BY_NAME[name]
    port = Port(str(tmp_path / "port"), CREATES, count())
    spool = Spool(tmp_path / "port", durability="fsync", fs=port)
    prepared = operation.prepare(spool)
    port.armed = True
    operation.act(spool, prepared, lambda job_id: None)
    root = tmp_path / "strace"
    Spool(root, durability="none")
    _, code, lines = strace(root, operation, "-e", f"trace={TRACED}")
    assert code == 0
    assert changes(lines, root) == [call.partition(" ")[0] for call in port.calls]


@pytest.mark.parametrize(
    ("name", "call", "when"),
    [
        ("enqueue a chosen id", "symlink,symlinkat", 1),
        ("enqueue a chosen id", "rename,renameat,renameat2", 1),
        ("enqueue a chosen id", "fsync", 2),
        ("settle 1 completed", "rename,renameat,renameat2", 5),  # the fence
        ("settle 1 completed", "rename,renameat,renameat2", 6),  # behind the fence
        ("recover a recorded outcome", "rename,renameat,renameat2", 4),
    ],
)
def test_killed_by_strace_in_the_call_nothing_is_lost(name: str, call: str, when: int, tmp_path: Path) -> None:
    operation, root = BY_NAME[name], tmp_path / "spool"
    Spool(root, durability="none")
    kill = f"inject={call}:signal=SIGKILL:when={when}"
    accepted, code, _ = strace(root, operation, "-e", f"trace={call}", "-e", kill)
    assert code in (-9, 137), "it was not killed"
    spool = Spool(root, durability="none")
    check(spool, operation, accepted, recorded(spool), False)
    assert os.path.isdir(root)
