"""The retry decision, as tables of numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.core.backoff import (
    CANCELLED,
    EXITED,
    LOST,
    SIGNALLED,
    STOPPED,
    TIMED_OUT,
    UNSTARTABLE,
    Outcome,
    Policy,
    decide,
    delay,
    explain,
)
from queuectl.core.job import Job, check
from queuectl.core.states import COMPLETED, DEAD, FAILED, PENDING
from queuectl.core.times import SECOND

NOW = 1_795_338_930 * SECOND
FAILURE = Outcome(EXITED, exit_code=1)


def job(**members: Any) -> Job:
    return check({"command": "true", **members})


def middle() -> float:
    return 0.5


def seconds_until(decision: Any) -> float:
    return float(decision.not_before - NOW) / SECOND


@pytest.mark.parametrize(
    ("outcome", "attempts", "state", "after"),
    [
        (Outcome(EXITED, exit_code=0), 1, COMPLETED, None),
        (Outcome(EXITED, exit_code=0), 99, COMPLETED, None),
        (FAILURE, 1, FAILED, 2),
        (FAILURE, 2, FAILED, 4),
        (FAILURE, 3, FAILED, 8),
        (FAILURE, 4, DEAD, None),
        (FAILURE, 5, DEAD, None),
        (Outcome(EXITED, exit_code=127), 1, FAILED, 2),
        (Outcome(EXITED, exit_code=126), 3, FAILED, 8),
        (Outcome(EXITED, exit_code=255), 1, FAILED, 2),
        (Outcome(EXITED, exit_code=100), 1, DEAD, None),
        (Outcome(EXITED, exit_code=75), 1, FAILED, 2),
        (Outcome(EXITED, exit_code=111), 3, FAILED, 8),
        (Outcome(EXITED, exit_code=75), 4, DEAD, None),
        (Outcome(EXITED, exit_code=111), 4, DEAD, None),
        (Outcome(SIGNALLED, signal=9), 1, FAILED, 2),
        (Outcome(SIGNALLED, signal=9), 4, DEAD, None),
        (Outcome(TIMED_OUT, signal=15), 2, FAILED, 4),
        (Outcome(TIMED_OUT), 4, DEAD, None),
        (Outcome(LOST), 1, FAILED, 2),
        (Outcome(LOST), 4, DEAD, None),
        (Outcome(UNSTARTABLE), 1, DEAD, None),
        (Outcome(CANCELLED, signal=15), 1, DEAD, None),
        (Outcome(STOPPED, signal=15), 1, PENDING, 0),
        (Outcome(STOPPED), 4, PENDING, 0),
    ],
)
def test_where_a_job_goes_with_the_default_policy(
    outcome: Outcome, attempts: int, state: str, after: float | None
) -> None:
    decision = decide(Policy(), job(), attempts, outcome, NOW, middle)
    assert decision.state == state
    assert decision.counted == (outcome.reason != STOPPED)
    assert (None if decision.not_before is None else seconds_until(decision)) == after


@pytest.mark.parametrize(
    ("policy", "members", "attempts", "state"),
    [
        (Policy(max_retries=0), {}, 1, DEAD),
        (Policy(max_retries=3), {"max_retries": 0}, 1, DEAD),
        (Policy(max_retries=0), {"max_retries": 1}, 1, FAILED),
        (Policy(max_retries=0), {"max_retries": 1}, 2, DEAD),
        (Policy(max_retries=1), {"max_retries": 100_000}, 100_000, FAILED),
        (Policy(max_retries=1), {"max_retries": 100_000}, 100_001, DEAD),
        (Policy(max_retries=3), {}, 0, FAILED),  # a claim that counted no attempt was lost
    ],
)
def test_the_jobs_own_number_of_retries_wins(
    policy: Policy, members: dict[str, Any], attempts: int, state: str
) -> None:
    assert decide(policy, job(**members), attempts, FAILURE, NOW, middle).state == state


@pytest.mark.parametrize(
    ("codes", "code", "state"),
    [
        (frozenset(), 100, FAILED),
        (frozenset({1, 2}), 2, DEAD),
        (frozenset({1, 2}), 100, FAILED),
        (frozenset({75, 111}), 75, FAILED),
        (frozenset({75, 111}), 111, FAILED),
        (frozenset({9}), 1, FAILED),
    ],
)
def test_permanent_exit_codes_are_a_setting_but_75_and_111_are_always_tried_again(
    codes: frozenset[int], code: int, state: str
) -> None:
    policy = Policy(permanent_exit_codes=codes)
    assert decide(policy, job(), 1, Outcome(EXITED, exit_code=code), NOW, middle).state == state


def test_a_permanent_exit_code_is_not_a_signal_of_that_number() -> None:
    policy = Policy(permanent_exit_codes=frozenset({9}))
    assert decide(policy, job(), 1, Outcome(SIGNALLED, signal=9), NOW, middle).state == FAILED


@pytest.mark.parametrize(
    ("policy", "members", "attempts", "seconds"),
    [
        (Policy(), {}, 1, 2),
        (Policy(), {}, 11, 2048),
        (Policy(), {}, 12, 3600),
        (Policy(), {}, 100_000, 3600),
        (Policy(backoff_base=10), {}, 3, 1000),
        (Policy(backoff_base=10), {"backoff_base": 3}, 3, 27),
        (Policy(backoff_base=1), {}, 50, 1),
        (Policy(backoff_base=0), {}, 5, 0),
        (Policy(backoff_base=0.5), {}, 2, 0.25),
        (Policy(backoff_base=1.5), {}, 2, 2.25),
        (Policy(backoff_max=5), {}, 3, 5),
        (Policy(backoff_max=5), {"backoff_max": 7}, 3, 7),
        (Policy(backoff_max=0), {}, 3, 0),
        (Policy(backoff_base=1e6, backoff_max=3.2e8), {}, 1000, 3.2e8),
        (Policy(), {"backoff_base": 1e6, "backoff_max": 315_360_000}, 99_999, 315_360_000),
        (Policy(), {}, 0, 1),
    ],
)
def test_the_delay_is_base_to_the_power_of_attempts_up_to_a_limit(
    policy: Policy, members: dict[str, Any], attempts: int, seconds: float
) -> None:
    assert delay(policy, job(**members), attempts, middle) == seconds


@pytest.mark.parametrize(
    ("jitter", "number", "seconds"),
    [("none", 0.9, 8), ("full", 0.0, 0), ("full", 0.25, 2), ("full", 0.5, 4),
     ("equal", 0.0, 4), ("equal", 0.25, 5), ("equal", 0.5, 6)],
)  # fmt: skip
def test_jitter_takes_a_random_part_of_the_delay_or_of_its_second_half(
    jitter: str, number: float, seconds: float
) -> None:
    assert delay(Policy(jitter=jitter), job(), 3, lambda: number) == seconds
    assert delay(Policy(), job(jitter=jitter), 3, lambda: number) == seconds


def test_a_job_without_jitter_is_not_spread_by_the_setting() -> None:
    assert delay(Policy(jitter="full"), job(jitter="none"), 3, lambda: 0.1) == 8


@given(
    st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0, 3.2e8), st.sampled_from(["none", "full", "equal"]),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_a_delay_is_never_negative_nor_above_the_limit(
    attempts: int, base: float, most: float, jitter: str, number: float
) -> None:
    policy = Policy(backoff_base=base, backoff_max=most, jitter=jitter)
    seconds = delay(policy, job(), attempts, lambda: number)
    assert 0 <= seconds <= most
    full = delay(policy._replace(jitter="none"), job(), attempts, middle)
    assert seconds <= full
    if jitter == "equal":
        assert seconds >= full / 2


@given(st.integers(0, 10), st.integers(1, 12), st.integers(0, 255))
def test_a_job_is_tried_once_and_then_as_often_as_it_has_retries(retries: int, attempts: int, code: int) -> None:
    policy = Policy(max_retries=retries, permanent_exit_codes=frozenset())
    state = decide(policy, job(), attempts, Outcome(EXITED, exit_code=code), NOW, middle).state
    assert state == (COMPLETED if code == 0 else DEAD if attempts >= 1 + retries else FAILED)


def test_the_decision_is_the_same_whenever_it_is_made_again() -> None:
    first = decide(Policy(), job(), 2, FAILURE, NOW, middle)
    assert decide(Policy(), job(), 2, FAILURE, NOW, middle) == first


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(EXITED, exit_code=3), "exit code 3"),
        (Outcome(EXITED, exit_code=126), "exit code 126 (the command cannot be executed)"),
        (Outcome(EXITED, exit_code=127), "exit code 127 (command not found)"),
        (Outcome(EXITED, exit_code=127, detail="nope: No such file"),
         "exit code 127: nope: No such file"),
        (Outcome(SIGNALLED, signal=9, detail="SIGKILL"), "killed by signal 9: SIGKILL"),
        (Outcome(TIMED_OUT, signal=15, detail="after 5 s"), "timeout: after 5 s"),
        (Outcome(LOST), "lost: its worker died or lost its lease"),
        (Outcome(UNSTARTABLE, detail="too long"), "could not be started: too long"),
        (Outcome(CANCELLED, signal=15), "cancelled"),
    ],
)  # fmt: skip
def test_last_error_says_in_words_what_happened(outcome: Outcome, text: str) -> None:
    assert explain(outcome) == text
