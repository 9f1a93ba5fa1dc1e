"""The retry decision: a pure function from how an attempt ended to where the job goes next.

    (policy, job, attempts, outcome, now, random) -> Decision

The worker only obeys it. A delay is backoff_base ^ attempts seconds (2, 4, 8 with base 2), at most
backoff_max; the jitters are "full" and "equal" of M. Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from queuectl.core.job import Job
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING
from queuectl.core.times import SECOND

ALWAYS_RETRIED = frozenset({75, 111})  # EX_TEMPFAIL of sysexits(3); qmail's "try again later"

EXITED = "exit"  # it ended by itself, with `exit_code`
SIGNALLED = "signal"  # a signal ended it
TIMED_OUT = "timeout"  # queuectl ended it at its timeout
LOST = "lost"  # its worker died, or lost its lease
UNSTARTABLE = "unstartable"  # this job can never be started (argument list too long)
CANCELLED = "cancelled"  # a person cancelled it
STOPPED = "stopped"  # the worker was told to stop now; not counted


class Outcome(NamedTuple):
    """How one attempt ended. `exit_code` belongs to EXITED; `signal` says which one ended it, if one did."""

    reason: str
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""

    @property
    def succeeded(self) -> bool:
        return self.reason == EXITED and self.exit_code == 0


class Policy(NamedTuple):
    """The settings that a retry depends on; a job's own values win over them. Seconds."""

    max_retries: int = 3
    backoff_base: float = 2.0
    backoff_max: float = 3600.0
    jitter: str = "none"
    permanent_exit_codes: frozenset[int] = frozenset({100})


class Decision(NamedTuple):
    """The state a job goes to, and for PENDING and FAILED when it may run again (nanoseconds UTC)."""

    state: str
    not_before: int | None = None
    counted: bool = True


def decide(
    policy: Policy, job: Job, attempts: int, outcome: Outcome, now: int, random: Callable[[], float]
) -> Decision:
    """Where a job goes whose attempt ended with `outcome`.

    `attempts` counts this attempt; `now` is nanoseconds UTC; `random` gives numbers in [0, 1).
    """
    if outcome.succeeded:
        return Decision(COMPLETED)
    if outcome.reason == STOPPED:
        return Decision(PENDING, now, counted=False)
    if outcome.reason in (CANCELLED, UNSTARTABLE):
        return Decision(DEAD)
    code = outcome.exit_code
    if outcome.reason == EXITED and code in policy.permanent_exit_codes and code not in ALWAYS_RETRIED:
        return Decision(DEAD)
    max_retries = policy.max_retries if job.max_retries is None else job.max_retries
    if attempts > max_retries:
        return Decision(DEAD)
    return Decision(FAILED, now + int(delay(policy, job, attempts, random) * SECOND))


def delay(policy: Policy, job: Job, attempts: int, random: Callable[[], float]) -> float:
    """Seconds until a job that has failed `attempts` times may run again."""
    base = policy.backoff_base if job.backoff_base is None else job.backoff_base
    most = policy.backoff_max if job.backoff_max is None else job.backoff_max
    try:
        seconds = min(base**attempts, most)
    except OverflowError:
        seconds = most
    jitter = job.jitter or policy.jitter
    if jitter == "full":
        return seconds * random()
    if jitter == "equal":
        return seconds / 2 + seconds / 2 * random()
    return seconds


def explain(outcome: Outcome) -> str:
    """One line for last_error: what happened, in words."""
    if outcome.reason == EXITED:
        known = {126: " (the command cannot be executed)", 127: " (command not found)"}
        meaning = "" if outcome.detail else known.get(outcome.exit_code or 0, "")  # the system's own word is better
        why = f"exit code {outcome.exit_code}{meaning}"
    elif outcome.reason == SIGNALLED:
        why = f"killed by signal {outcome.signal}"
    elif outcome.reason == TIMED_OUT:
        why = "timeout"
    elif outcome.reason == LOST:
        why = "lost: its worker died or lost its lease"
    elif outcome.reason == UNSTARTABLE:
        why = "could not be started"
    else:
        why = outcome.reason
    return f"{why}: {outcome.detail}" if outcome.detail else why
