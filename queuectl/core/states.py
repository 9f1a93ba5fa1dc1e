"""The states of a job, and the order in which they win if a crash left an id in two places (R13).

The directory of that name IS the state; no file repeats it.
"""

from __future__ import annotations

PENDING = "pending"
PROCESSING = "processing"
COMPLETED = "completed"
FAILED = "failed"
DEAD = "dead"

STATES = (PENDING, PROCESSING, COMPLETED, FAILED, DEAD)
WAITING = (PENDING, FAILED)
TERMINAL = (COMPLETED, DEAD)

LABELS = {
    PENDING: "Pending",
    PROCESSING: "Processing",
    COMPLETED: "Completed",
    FAILED: "Failed",
    DEAD: "Dead (DLQ)",
}

_STRENGTH = {PENDING: 0, FAILED: 0, PROCESSING: 1, COMPLETED: 2, DEAD: 2}


def strength(state: str, attempts: int) -> tuple[int, int]:
    """The greater wins: the higher attempt first, then terminal over processing over waiting (R13)."""
    return attempts, _STRENGTH[state]
