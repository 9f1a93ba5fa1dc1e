"""One spool on a real NFS server, and the hosts that share it: what the tests do to them, and see of them.

The lab boots the machines ($QUEUECTL_NFSLAB, else ../shared/nfslab beside the repository; its README says how). The
truth is what the server sees on its own disk; what a client sees may be a minute old.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY, until

USUAL_LAB = REPOSITORY.parent / "shared" / "nfslab"
LAB = Path(os.environ.get("QUEUECTL_NFSLAB") or USUAL_LAB)
MOUNT, EXPORT, OUT = "/mnt/nfs", "/export", "/lab/out"
HEARTBEAT, STALE_AFTER, POLL_INTERVAL = 0.5, 6.0, 0.5  # seconds; small, so that tests are quick
SETTINGS = f'heartbeat = {HEARTBEAT}\nstale-after = {STALE_AFTER}\npoll-interval = {POLL_INTERVAL}\nbackoff-base = 1\n'
PYTHON = [sys.executable, "-m", "queuectl"]


def missing() -> str:
    """Why there is no lab here; "" if there is one."""
    if not (LAB / "nfslab.py").is_file():
        return f"there is no NFS lab at {LAB} (set QUEUECTL_NFSLAB)"
    if os.geteuid() != 0:
        return "the NFS lab needs root"
    return ""


def cannot_boot() -> str:
    """Why no machine of the lab can boot on this processor; "" if it can. User-mode Linux 6.1 hands the registers of
    its processes to ptrace(2) in 2,696 bytes; where the processor has AMX they take 11,008, and a kernel wants all of
    them ("ptrace set fp regs failed, errno = 14"). A lab that knows better says so in $QUEUECTL_NFSLAB."""
    amx = " amx_tile " in Path("/proc/cpuinfo").read_text()
    return "the NFS lab's kernel cannot boot on a processor with AMX" if amx and LAB == USUAL_LAB else ""


def boot(clients: int, vers: str, **more: Any) -> Any:
    """A lab that is up: a context manager. Its server waits 10 s for its clients after a restart; others wait 90."""
    if str(LAB) not in sys.path:
        sys.path.insert(0, str(LAB))
    os.environ.setdefault("NFSLAB_QUIET", "1")
    live = [str(REPOSITORY)]
    if not Path(sys.prefix).is_relative_to(REPOSITORY):
        live.append(sys.prefix)
    name = f"queuectl{os.getpid()}x{clients}v{vers}"
    return importlib.import_module("nfslab").Lab.up(clients=clients, vers=vers, name=name, project=live, **more)


class Cluster:
    """The hosts of a lab, on one spool."""

    def __init__(self, lab: Any, name: str, settings: str = SETTINGS) -> None:
        self.lab = lab
        self.name = name
        self.hosts: list[str] = lab.clients()
        self.spool = f"{MOUNT}/{name}"
        self.truth = f"{EXPORT}/{name}"
        self.queuectl(self.hosts[0], "init", self.spool)
        self.shell("server", f"printf %s '{settings}' > {self.truth}/config.toml; sync")  # its power may be cut
        self._workers: list[Any] = []

    # -- commands -------------------------------------------------------------------------------------------------

    def start(self, host: str, argv: Sequence[str], *, gate: bool = False, **env: str) -> Any:
        """Start a command on a host; the lab's Job: `.wait(seconds)` gives `.code .out .err`, `.kill(number)`."""
        variables = {"QUEUECTL_SPOOL": self.spool, "PYTHONWARNINGS": "error", **env}
        return self.lab.start(host, list(argv), gate=gate, env=variables, cwd=str(REPOSITORY))

    def run(self, host: str, argv: Sequence[str], limit: float = 60.0, **env: str) -> Any:
        return self.start(host, argv, **env).wait(limit)

    def shell(self, host: str, script: str, limit: float = 60.0) -> str:
        """What a shell script printed; it must succeed."""
        out: str = self.run(host, ["sh", "-ec", script], limit).check().out
        return out

    def queuectl(self, host: str, *arguments: str, limit: float = 60.0, code: int = 0) -> str:
        """What a command printed, which must end with `code`."""
        result = self.run(host, [*PYTHON, *arguments], limit)
        assert result.code == code, f"{host}: queuectl {' '.join(arguments)}: {result.code}\n{result.out}{result.err}"
        out: str = result.out
        return out

    def json(self, host: str, *arguments: str) -> Any:
        return json.loads(self.queuectl(host, *arguments, "--json"))

    # -- workers --------------------------------------------------------------------------------------------------

    def worker(self, host: str, *arguments: str, **env: str) -> Any:
        """A worker in the foreground of its machine; `said` reads its log."""
        job = self.start(host, [*PYTHON, "worker", "start", *arguments], **env)
        self._workers.append(job)
        return job

    @contextmanager
    def workers(self, *arguments: str, hosts: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """A worker on each host, registered; they are stopped in the end, and must end well."""
        begun = {host: self.worker(host, *arguments) for host in hosts or self.hosts}
        for host, job in begun.items():
            until(lambda host=host, job=job: self._is_ready(host, job), 30, f"the worker on {host} registers")
        yield begun
        for job in begun.values():
            signal_job(job, signal.SIGTERM)
        for host, job in begun.items():
            if self.lab.alive(host):
                result = job.wait(90)
                assert result.code in (0, -999), f"{host}: {result.code}: {result.err}"
                assert "Traceback" not in result.err, result.err

    def _is_ready(self, host: str, job: Any) -> bool:
        assert not job.done.is_set(), f"the worker on {host} has ended: {said(job)}"
        return any(name.startswith(f"{host}-") for name in self.names("workers"))

    def end(self) -> None:
        """Leave nothing running."""
        self.lab.heal()
        for job in self._workers:
            signal_job(job, signal.SIGKILL)

    # -- what is there --------------------------------------------------------------------------------------------

    def names(self, directory: str) -> list[str]:
        """The names in one of the spool's directories, on the server's disk."""
        return self.shell("server", f"ls -A {self.truth}/{directory}").split()

    def count(self, directory: str) -> int:
        return len(self.names(directory))

    def records(self, state: str = "completed") -> dict[str, dict[str, Any]]:
        """The records in a state, by id, read on the server."""
        text = self.shell("server", f"find {self.truth}/{state} -name '*.json' -exec cat {{}} +")
        found = {}
        decoder, at = json.JSONDecoder(), 0
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            body, at = decoder.raw_decode(text, at)
            found[body["id"]] = body
        return found

    def await_drained(self, limit: float = 60.0) -> None:
        """Wait until nothing waits, runs or is being settled."""
        look = f"cd {self.truth}; ls -A pending failed processing | grep json || :"
        until(lambda: not self.shell("server", look), limit, f"the spool is drained; there are {self.counts()}")

    def counts(self) -> dict[str, int]:
        directories = "pending processing failed completed dead .tmp workers"
        script = f"cd {self.truth}; for d in {directories}; do echo $d $(ls -A $d | wc -l); done"
        return {line.split()[0]: int(line.split()[1]) for line in self.shell("server", script).splitlines()}

    def now(self) -> float:
        """The server's clock, seconds since 1970."""
        return float(self.shell("server", "date +%s.%N"))

    def operations(self, host: str) -> Counter[str]:
        """How many NFS operations of each kind a client has sent since it mounted (mountstats, per-op statistics)."""
        return parse_mountstats(self.shell(host, "cat /proc/self/mountstats"))

    def failed_renames(self, host: str) -> int:
        """How many renames the server has refused to a client since it mounted: lost races, mostly."""
        return parse_mountstats(self.shell(host, "cat /proc/self/mountstats"), column=8)["RENAME"]

    def output(self, host: str) -> Path:
        """Where the host's OUT lies on this machine."""
        return Path(self.lab.conf["out"]) / host


    # -- what jobs have written down, outside the spool ------------------------------------------------------------

    def witnesses(self, word: str) -> list[tuple[str, str]]:
        """The lines of all hosts' witness files for `word`, each with its host, as jobs append them with WITNESS."""
        found = []
        for host in self.hosts:
            path = self.output(host) / f"{self.name}.{word}"
            if path.exists():
                found += [(host, line) for line in path.read_text().splitlines()]
        return found

    def jobs_alive(self, host: str) -> list[str]:
        """The processes of jobs on a host."""
        return self.shell(host, "grep -ls QUEUECTL_CLAIM= /proc/[0-9]*/environ || :").split()

    def witness(self, word: str) -> str:
        """A line of shell by which a job says its id and attempt."""
        return f"echo $QUEUECTL_JOB_ID $QUEUECTL_ATTEMPT >> {OUT}/{self.name}.{word}"

    def heartbeat_of_job(self, seconds: float) -> str:
        """A command that lives so long and shows it five times a second: `last_sign` tells when it last did."""
        mark = f"{OUT}/{self.name}.$QUEUECTL_JOB_ID.$QUEUECTL_ATTEMPT"
        return f"{self.witness('began')}; for i in $(seq {int(seconds * 5)}); do echo >> {mark}; sleep 0.2; done"

    def signs(self, host: str, job_id: str, attempt: int) -> tuple[float, float] | None:
        """When an attempt was first and last seen alive on a host, by the clock of this machine; None if it never
        was."""
        path = self.output(host) / f"{self.name}.{job_id}.{attempt}"
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime - 0.2 * (found.st_size - 1), found.st_mtime


def signal_job(job: Any, number: int) -> None:
    """Send a signal to a command, unless it has ended."""
    if not job.done.is_set():
        with suppress(OSError):
            job.kill(number)


def said(job: Any) -> str:
    """What a command has printed so far, on either stream."""
    return b"".join([*job.out, *job.err]).decode("utf-8", "replace")


def parse_mountstats(text: str, column: int = 0) -> Counter[str]:
    """By kind, the operations sent for the NFS mount at MOUNT; with `column` 8, those that ended with an error."""
    found: Counter[str] = Counter()
    ours = counting = False
    for line in text.splitlines():
        if line.startswith("device "):
            ours, counting = f" mounted on {MOUNT} " in line, False
        elif ours and "per-op statistics" in line:
            counting = True
        elif ours and counting and ":" in line:
            name, _, numbers = line.strip().partition(":")
            if int(numbers.split()[column]):
                found[name] = int(numbers.split()[column])
    return found


def pause(seconds: float) -> None:
    """Let a fault last. Not to wait for a condition: `until` does that."""
    time.sleep(seconds)
