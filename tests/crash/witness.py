"""A witness: jobs that write down, outside the spool, when they start and end, and a checker that reads it.

A job's line is one write with O_APPEND. What the checker must find: no attempt (id and claim) started twice, and no two
runs of one job at once: when a run starts, the process of every earlier run of that job that has no end must be gone.
That is asked by the job itself, of /proc, at its first instruction.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SCRIPT = """\
for other in $(cat {pids}/$QUEUECTL_JOB_ID.* 2>/dev/null); do
    kill -0 $other 2>/dev/null && grep -q "[.]$QUEUECTL_JOB_ID@" /proc/$other/environ 2>/dev/null &&
        echo "overlap $QUEUECTL_JOB_ID $QUEUECTL_ATTEMPT $QUEUECTL_CLAIM" >> {history}
done
echo $$ > {pids}/$QUEUECTL_JOB_ID.$QUEUECTL_ATTEMPT
echo "start $QUEUECTL_JOB_ID $QUEUECTL_ATTEMPT $QUEUECTL_CLAIM" >> {history}
{work}
code=$?
echo "end $QUEUECTL_JOB_ID $QUEUECTL_ATTEMPT $QUEUECTL_CLAIM" >> {history}
rm -f {pids}/$QUEUECTL_JOB_ID.$QUEUECTL_ATTEMPT
exit $code
"""


class Line(NamedTuple):
    what: str
    job: str
    attempt: int
    claim: str


class Witness:
    """The history of one test, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._pids = directory / "pids"
        self._history = directory / "history"
        self._pids.mkdir(parents=True)
        self._history.touch()

    def command(self, work: str = ":") -> str:
        """A shell command that does `work` and is witnessed."""
        return SCRIPT.format(pids=self._pids, history=self._history, work=work)

    def lines(self) -> list[Line]:
        parts = (line.split() for line in self._history.read_text().splitlines())
        return [Line(what, job, int(attempt), claim) for what, job, attempt, claim in parts]

    def running(self) -> int:
        """How many runs have started and not ended."""
        return len(list(self._pids.iterdir()))

    def check(self, expected: list[str]) -> None:
        """Each of these jobs ended in some run, no run was started twice, no two were there at once."""
        lines = self.lines()
        assert [line for line in lines if line.what == "overlap"] == []
        started = [(line.job, line.claim) for line in lines if line.what == "start"]
        assert len(started) == len(set(started)), "a claim was run twice"
        attempts = [(line.job, line.attempt) for line in lines if line.what == "start"]
        assert len(attempts) == len(set(attempts)), "an attempt was run twice"
        assert {line.job for line in lines if line.what == "end"} == set(expected)
