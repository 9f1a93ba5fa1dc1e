"""Which of two files of one job wins, if a crash left both (R13)."""

from __future__ import annotations

from itertools import combinations

import pytest

from queuectl.core.states import (
    COMPLETED,
    DEAD,
    FAILED,
    LABELS,
    PENDING,
    PROCESSING,
    STATES,
    TERMINAL,
    WAITING,
    strength,
)


@pytest.mark.parametrize("one", STATES)
@pytest.mark.parametrize("other", STATES)
def test_the_higher_attempt_wins_whatever_the_states_are(one: str, other: str) -> None:
    assert strength(one, 3) > strength(other, 2)


@pytest.mark.parametrize(
    ("weak", "strong"),
    [(weak, strong) for weak, strong in combinations((PENDING, PROCESSING, COMPLETED), 2)]
    + [(FAILED, PROCESSING), (PROCESSING, DEAD), (FAILED, COMPLETED), (PENDING, DEAD)],
)
def test_of_one_attempt_terminal_wins_over_processing_and_that_over_waiting(weak: str, strong: str) -> None:
    assert strength(strong, 1) > strength(weak, 1)


def test_every_state_is_waiting_processing_or_terminal_and_has_a_label() -> None:
    assert {*WAITING, PROCESSING, *TERMINAL} == set(STATES) == set(LABELS)
    assert len(STATES) == 5
