"""A small file system for the spool that can be filled and emptied: a tmpfs, if we are root and may mount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class Disk:
    """`problem` says why there is none; then the spool lies where it was asked to, and isn't filled."""

    def __init__(self, where: Path, megabytes: int = 96) -> None:
        self.where = where
        self.problem = ""
        self._ballast = where / "ballast"
        where.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            self.problem = "full disks are left out: mounting one needs root"
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "queuectl-chaos", str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.problem = f"full disks are left out: {done.stderr.strip()}"

    def fill(self) -> None:
        if self.problem:
            return
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        self.empty()
        if not self.problem:
            done = subprocess.run(["umount", str(self.where)], check=False, capture_output=True)
            if done.returncode:  # somebody still has a file open there
                subprocess.run(["umount", "-l", str(self.where)], check=False, capture_output=True)
            self.problem = "unmounted"
