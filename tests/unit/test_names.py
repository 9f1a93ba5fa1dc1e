"""File names: what is made can be read back, and what can be read is the very name that would be made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.core.names import (
    LONGEST_ID_WITH_NEEDS,
    Claim,
    Record,
    Waiting,
    is_id,
    is_ignored,
    is_label,
    is_met,
    is_worker,
    needs_of,
    parse_claim,
    parse_record,
    parse_spent,
    parse_terminal,
    parse_waiting,
)
from queuectl.core.times import unstamp
from queuectl.disk import token
from queuectl.spool import looks_generated, new_id
from tests.unit import strategies as some

WHEN = "20261122T091530.123456Z"


@given(some.waiting)
def test_a_waiting_name_says_what_it_was_made_of(waiting: Waiting) -> None:
    assert parse_waiting(waiting.name) == waiting


@given(some.claims)
def test_a_claim_and_its_spent_name_say_what_they_were_made_of(claim: Claim) -> None:
    assert parse_claim(claim.name) == claim
    assert parse_spent(claim.spent) == claim


@given(some.records)
def test_a_record_name_says_what_it_was_made_of(record: Record) -> None:
    assert parse_record(record.name) == record


@given(some.waiting, some.workers, st.integers(1, 10**12 - 1))
def test_claiming_any_waiting_job_gives_a_name_that_can_be_read(waiting: Waiting, worker: str, n: int) -> None:
    claim = waiting.claimed_by(worker, n)
    assert parse_claim(claim.name) == claim
    assert claim.attempts == waiting.attempts + 1
    assert claim.needs == waiting.needs


@given(some.records)
def test_a_job_keeps_its_needs_wherever_it_waits(record: Record) -> None:
    if record.not_before:
        found = parse_waiting(record.target)
        assert found is not None
        assert (found.needs, found.id) == (record.claim.needs, record.claim.id)


@pytest.mark.parametrize("attempts", [0, 1, 99_999, 100_000, 999_999])
def test_the_highest_count_that_a_waiting_name_can_say_can_be_claimed(attempts: int) -> None:
    waiting = parse_waiting(f"{WHEN}.p0.a{attempts}.job.json")
    assert waiting is not None
    claim = waiting.claimed_by("worker", 1)
    assert parse_claim(claim.name) == claim, "a claim that cannot be read is never recovered"


@given(some.almost_names)
def test_any_text_is_read_as_the_name_that_it_is_or_not_at_all(text: str) -> None:
    for parse in (parse_waiting, parse_claim, parse_record):
        found = parse(text)
        assert found is None or found.name == text
    assert (found := parse_spent(text)) is None or found.spent == text
    assert (job_id := parse_terminal(text)) is None or f"{job_id}.json" == text


@given(some.almost_names)
def test_every_stamp_in_a_name_that_can_be_read_is_a_time(text: str) -> None:
    for found in (parse_waiting(text), parse_claim(text)):
        if found is not None:
            assert unstamp(found.not_before) >= 0
    record = parse_record(text)
    if record is not None and record.not_before:
        assert unstamp(record.not_before) >= 0


@pytest.mark.parametrize(
    "name",
    [
        "\u0662\u0660\u0662\u06661122T091530.123456Z.p0.a0.job.json",  # Arabic digits, which \d matches
        "20261122T091530.123456Z.p\uff11.a0.job.json",  # a fullwidth digit
        "20261322T091530.123456Z.p0.a0.job.json",  # month 13
        "20260230T091530.123456Z.p0.a0.job.json",  # 30 February
        "20261122T241530.123456Z.p0.a0.job.json",  # hour 24
        "20261122T096030.123456Z.p0.a0.job.json",  # minute 60
        "20261122T091560.123456Z.p0.a0.job.json",  # a leap second
        "00001122T091530.123456Z.p0.a0.job.json",  # the year 0
        "19691122T091530.123456Z.p0.a0.job.json",  # before 1970
        f"{WHEN}.p+1.a0.job.json",
        f"{WHEN}.p-0.a0.job.json",
        f"{WHEN}.p01.a0.job.json",
        f"{WHEN}.p1000.a0.job.json",
        f"{WHEN}.p0.a00.job.json",
        f"{WHEN}.p0.a-1.job.json",
        f"{WHEN}.p0.a1000000.job.json",
        f"{WHEN}.p0.a0..json",
        f"{WHEN}.p0.a0.a b.json",
        f"{WHEN}.p0.a0.job.json\n",
        f"{WHEN}.p0.a0.{'x' * 101}.json",
        f"{WHEN}.p0.a0.job.JSON",
        f"{WHEN}.p0.a0.job@worker.1.json",
        f"{WHEN}.p0.a0.n.job.json",
        f"{WHEN}.p0.a0.gpu.job.json",
        f"{WHEN}.p0.a0.ngpu+.job.json",
        f"{WHEN}.p0.a0.n+gpu.job.json",
        f"{WHEN}.p0.a0.n-gpu.job.json",
        f"{WHEN}.p0.a0.nssd+gpu.job.json",  # not sorted: there is one name for one set
        f"{WHEN}.p0.a0.ngpu+gpu.job.json",
        f"{WHEN}.p0.a0.ngpu.nssd.job.json",
        f"{WHEN}.p0.a0.n{'x' * 33}.job.json",
        f"{WHEN}.p0.a0.n{'+'.join('abcdefgh' * 1 + str(n) for n in range(8))}.job.json",  # 79 letters
        f"{WHEN}.p0.a0.n{'g' * 15}.{'x' * 100}.json",  # its record's name would not fit
        f" {WHEN}.p0.a0.job.json",
    ],
)
def test_a_name_that_is_almost_right_is_foreign(name: str) -> None:
    assert parse_waiting(name) is None


@pytest.mark.parametrize("number", ["007", "", "-1", "1234567890123", "\u0661", "1.5"])
def test_a_claim_number_that_nobody_makes_is_no_claim(number: str) -> None:
    assert parse_claim(f"{WHEN}.p0.a1.job@worker.{number}.json") is None


@pytest.mark.parametrize(
    "target", ["running", "pending", f"pending.{WHEN}", f"failed.{WHEN}.a01", "", "completed=dead"]
)
def test_a_record_with_another_target_is_no_record(target: str) -> None:
    assert parse_record(f"{WHEN}.p0.a1.job@worker.1={target}.json") is None


@pytest.mark.parametrize("needs", ["", "g" * 14, f"{'g' * 31}+{'h' * 32}"])
def test_the_longest_names_fit_into_a_file_system(needs: str) -> None:
    job_id = "x" * min(100, LONGEST_ID_WITH_NEEDS - len(needs))
    claim = Waiting(WHEN, -999, 999_999, job_id, needs).claimed_by("w" * 40, 10**12 - 1)
    assert parse_claim(claim.name) == claim
    record = Record(claim, "pending", WHEN, 999_999)
    assert parse_record(record.name) == record
    assert max(map(len, (claim.name, claim.spent, record.name))) <= 255


def test_a_job_whose_id_looks_like_needs_needs_nothing() -> None:
    found = parse_waiting(f"{WHEN}.p0.a0.ngpu.json")
    assert found is not None
    assert (found.id, found.needs) == ("ngpu", "")


@given(st.lists(some.labels, max_size=5), st.frozensets(some.labels, max_size=5))
def test_needs_are_met_by_whoever_has_all_the_labels(wanted: list[str], has: frozenset[str]) -> None:
    assert is_met(needs_of(wanted), has) == (set(wanted) <= has)
    assert is_met(needs_of(wanted), has | set(wanted))


@given(st.text())
def test_a_label_is_safe_in_a_name(text: str) -> None:
    if is_label(text):
        assert parse_waiting(f"{WHEN}.p0.a0.n{text}.job.json") == Waiting(WHEN, 0, 0, "job", text)


@given(st.lists(st.tuples(some.instants, some.waiting)))
def test_sorted_waiting_names_are_sorted_by_time(pairs: list[tuple[int, Waiting]]) -> None:
    names = sorted(waiting.name for _, waiting in pairs)
    times = [unstamp(name[:23]) for name in names]
    assert times == sorted(times)


# -- ids and workers --------------------------------------------------------------------------------------------------


@given(some.ids)
def test_letters_digits_dash_and_underscore_make_an_id(job_id: str) -> None:
    assert is_id(job_id)


@pytest.mark.parametrize(
    "text",
    ["", "../x", ".", "..", "a/b", "-rf", "--", "x\n", "\nx", "x ", "a.b", "a@b", "a=b", "j\u043eb", "\uff11", "x\0",
     "x" * 101, "x" * 300, "\u212a", "\u017f", "x\u200b", "~", "*"],
)  # fmt: skip
def test_what_could_leave_the_spool_or_mislead_the_eye_is_no_id(text: str) -> None:
    assert not is_id(text)


@given(st.text())
def test_an_id_is_safe_in_a_path_and_on_a_command_line(text: str) -> None:
    if is_id(text):
        assert text.isascii()
        assert not text.startswith("-")
        assert not set(text) & set("./@=\n \0")
        assert 1 <= len(text) <= 100


@given(st.text())
def test_a_worker_name_is_safe_in_a_claim(text: str) -> None:
    if is_worker(text):
        assert parse_claim(f"{WHEN}.p0.a1.job@{text}.1.json") is not None


@given(some.instants)
def test_a_generated_id_is_an_id_and_is_known_as_generated(now: int) -> None:
    for job_id in (new_id(now), new_id(now) + "-backup_2"):
        assert is_id(job_id)
        assert looks_generated(job_id)


@given(st.lists(st.integers(10**15, 3 * 10**19), min_size=2, unique_by=lambda ns: ns // 1000))
def test_generated_ids_sort_by_time(moments: list[int]) -> None:
    ids = [new_id(moment) for moment in sorted(moments)]
    assert ids == sorted(ids)


def test_generated_ids_of_one_moment_differ() -> None:
    assert len({new_id(10**18) for _ in range(2000)}) == 2000
    assert len({token() for _ in range(2000)}) == 2000


@pytest.mark.parametrize("name", [".x.json", ".json", "x.json~", "x.tmp", "x.json.part", "x.json.swp", "x", "x.JSON"])
def test_hidden_unfinished_and_other_names_are_none_of_our_business(name: str) -> None:
    assert is_ignored(name)


@pytest.mark.parametrize("name", ["x.json", "a b.json", "\udcff.json", "x.tmp.json", "-.json"])
def test_everything_else_that_ends_in_json_is_a_job_file(name: str) -> None:
    assert not is_ignored(name)
