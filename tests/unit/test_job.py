"""Job records: any bytes are a job or are refused with the member's name; what is accepted can be read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queuectl.core import job as jobs
from queuectl.core.job import Job, check, dump, parse, settled
from queuectl.core.names import Claim
from queuectl.errors import USAGE, BadJob, QueuectlError
from tests.unit import strategies as some

CLAIM = Claim("20261122T091530.123456Z", 0, 1, "job1", "worker", 7)
NOW = 1_795_338_930_123_456_789


def read(data: bytes) -> Job | BadJob:
    try:
        return parse(data)
    except BadJob as error:
        return told(error)


def told(error: BadJob) -> BadJob:
    """What holds for every refusal."""
    text = str(error)
    assert error.exit_code == USAGE
    assert isinstance(error, QueuectlError)
    assert error.why in text
    assert text.isprintable(), f"a message must not hold control characters: {text!r}"
    assert 5 < len(text) < 400, f"a message is a sentence, not the data: {text[:500]!r}"
    return error


# -- any bytes --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
@example(b"")
@example(b"\0" * 4096)
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b'"' + b"[" * 1000)
def test_any_bytes_are_a_job_or_are_refused(data: bytes) -> None:
    read(data)


@given(st.text("{}[]\":,\\u0dcommand1.eE-+ \n\ud800\u202e", max_size=80))
def test_anything_that_looks_like_json_is_a_job_or_is_refused(text: str) -> None:
    read(text.encode("utf-8", "surrogatepass"))


@given(some.json_values)
def test_any_json_is_a_job_or_is_refused(value: object) -> None:
    read(json.dumps(value).encode())


@given(some.almost_jobs)
def test_known_members_with_any_value_are_a_job_or_the_member_is_named(body: dict[str, Any]) -> None:
    found = read(json.dumps(body).encode())
    if isinstance(found, BadJob):
        assert found.member, f"no member is named: {found}"
        stem = found.member.partition(".")[0].partition("[")[0]
        assert stem in some.KNOWN


@given(st.dictionaries(st.one_of(st.text(), st.integers(), st.none(), st.sampled_from(some.KNOWN)), st.one_of(
    some.json_values, st.floats(), st.binary(), st.text(), st.builds(object), st.sets(st.integers())), max_size=5))
def test_whatever_a_program_passes_is_a_job_that_can_be_written_or_is_refused(given: dict[Any, Any]) -> None:
    try:
        data = jobs.submission(check(given), "job1", NOW)
    except BadJob as error:
        told(error)
        return
    assert isinstance(read(data), Job), "what was accepted must be a job when the worker reads it"


@given(some.jobs())
def test_a_job_reads_back_as_it_was_given(body: dict[str, Any]) -> None:
    job = parse(json.dumps(body).encode())
    assert job.command == body["command"]
    assert job.priority == body.get("priority", 0)
    assert job.env == body.get("env", {})
    assert job.needs == "+".join(sorted(body.get("needs", [])))
    for name in ("max_retries", "timeout", "backoff_base", "backoff_max", "jitter", "cwd", "id"):
        assert getattr(job, name) == body.get(name)
    assert job.body.get("note") == body.get("note")


@given(some.jobs(), st.integers(1, 5), st.sampled_from(["", "exit code 1", "killed: \x1b[31m"]))
def test_a_settled_record_is_a_job_again_and_keeps_all_members(body: dict[str, Any], attempts: int, error: str) -> None:
    job = parse(jobs.submission(check(body), "job1", NOW))
    for number in range(1, attempts + 1):
        assert job.attempt == number
        job = parse(settled(job, CLAIM, number, NOW, {"attempt": number, "exit_code": 1}, error, 1))
    assert [entry["attempt"] for entry in job.history] == list(range(1, attempts + 1))
    assert job.body.get("last_error", "") == error
    for name, value in check(body).body.items():
        if name not in ("id", "attempts", "exit_code", "last_error", "history", "updated_at", "created_at", "claim"):
            assert job.body[name] == value


@given(some.almost_jobs)
def test_whatever_is_accepted_can_be_settled_and_read_again(body: dict[str, Any]) -> None:
    job = read(json.dumps({"command": "true", **body}).encode())
    if isinstance(job, Job):
        again = parse(settled(job, CLAIM, 3, NOW, {"attempt": job.attempt}, "why", 1))
        assert (again.command, again.argv, again.priority, again.run_at) == (
            job.command, job.argv, job.priority, job.run_at)
        assert again.attempt > job.attempt


@given(some.jobs())
def test_settling_a_settled_record_changes_no_member_of_the_submitter(body: dict[str, Any]) -> None:
    once = parse(settled(check(body), CLAIM, 1, NOW))
    assert parse(settled(once, CLAIM, 1, NOW)).body == once.body


# -- what an older program wrote --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "member", "value"),
    [
        ({"jobId": "job1"}, "id", "job1"),
        ({"job_id": "job1"}, "id", "job1"),
        ({"job-id": "job1"}, "id", "job1"),
        ({"runAt": "2025-11-10T10:00:00Z"}, "run_at", 1_762_768_800_000_000_000),
        ({"next_run_at": "2025-11-10T11:00:00+01:00"}, "run_at", 1_762_768_800_000_000_000),
        ({"run-at": "2025-11-10T10:00:00Z"}, "run_at", 1_762_768_800_000_000_000),
        ({"maxRetries": 5}, "max_retries", 5),
        ({"max-retries": 5}, "max_retries", 5),
        ({"default_max_retries": 5}, "max_retries", 5),
        ({"default-max-retries": 5}, "max_retries", 5),
        ({"backoff_base": 3}, "backoff_base", 3.0),
        ({"backoff-base": 3}, "backoff_base", 3.0),
        ({"backoffBase": 1.5}, "backoff_base", 1.5),
        ({"backoff-max": 60}, "backoff_max", 60.0),
    ],
)
def test_older_spellings_are_taken(given: dict[str, Any], member: str, value: object) -> None:
    job = check({"command": "true", **given})
    assert getattr(job, member) == value
    assert set(job.body) == {"command", member}, "one spelling is written"


def test_a_command_in_a_payload_is_taken_and_the_payload_is_kept() -> None:
    job = check({"payload": {"command": "echo hi", "x": 1}})
    assert job.command == "echo hi"
    assert job.body["payload"] == {"command": "echo hi", "x": 1}


def test_a_payload_beside_a_command_is_the_submitters_own_affair() -> None:
    assert check({"command": "one", "payload": {"command": "two"}}).command == "one"
    assert check({"command": "one", "payload": 5}).body["payload"] == 5


def test_state_is_never_kept_because_the_directory_says_it() -> None:
    assert "state" not in check({"command": "true", "state": "completed"}).body


def test_null_means_not_given() -> None:
    members = dict.fromkeys(["id", "priority", "run_at", "max_retries", "timeout", "cwd", "env", "history", "argv"])
    assert check({"command": "true", **members}).body == {"command": "true"}


def test_the_given_mapping_is_not_changed() -> None:
    given = {"argv": ("a", "b"), "maxRetries": 1, "env": {"A": "b"}}
    before = dict(given)
    check(given)
    assert given == before


def test_a_creation_time_that_was_given_is_kept_and_a_missing_one_is_set() -> None:
    kept = jobs.submission(check({"command": "true", "createdAt": "2025-01-01T00:00:00Z"}), "job1", NOW)
    assert parse(kept).body["created_at"] == "2025-01-01T00:00:00Z"
    assert parse(jobs.submission(check({"command": "true"}), "job1", NOW)).body["created_at"] == (
        "2026-11-22T09:15:30.123456Z"
    )


# -- what grows -------------------------------------------------------------------------------------------------------


def test_a_job_of_the_largest_size_survives_its_attempts() -> None:
    room = jobs.LARGEST_FILE - len(jobs.submission(check({"command": "x", "note": ""}), "job1", NOW))
    data = jobs.submission(check({"command": "x", "note": "n" * room}), "job1", NOW)
    assert len(data) == jobs.LARGEST_FILE
    job = parse(data)
    for number in range(1, 30):
        entry = {"attempt": number, "host": "h" * 255, "worker": "w" * 40, "log": "l" * 120}
        job = parse(settled(job, CLAIM, number, NOW, entry, "e" * 3_000_000, 1), jobs.LARGEST_RECORD)
    assert len(job.history) == 29


def test_numbers_that_take_more_room_when_written_again_do_no_harm() -> None:
    numbers = b'{"command": "x", "n": [' + b"1e15," * 209_000 + b"1]}"
    assert len(numbers) <= jobs.LARGEST_FILE
    record = settled(parse(numbers), CLAIM, 1, NOW)
    assert len(record) > jobs.LARGEST_FILE
    assert parse(record, jobs.LARGEST_RECORD).command == "x"


def test_a_hundred_thousand_retries_keep_a_bounded_history() -> None:
    history = [{"attempt": n} for n in range(1, jobs.MOST_HISTORY + 1)]
    job = check({"command": "x", "history": history})
    job = parse(settled(job, CLAIM, 5, NOW, {"attempt": job.attempt}), jobs.LARGEST_RECORD)
    assert len(job.history) == jobs.MOST_HISTORY
    assert job.attempt == jobs.MOST_HISTORY + 2, "the numbers go on though the oldest entry is gone"


def test_the_highest_attempt_that_a_history_may_say_can_be_settled() -> None:
    job = check({"command": "x", "history": [{"attempt": jobs.LAST_ATTEMPT}]})
    assert parse(settled(job, CLAIM, 1, NOW, {"attempt": job.attempt})).attempt == jobs.LAST_ATTEMPT


@pytest.mark.parametrize(("argv", "shown"), [(["a", "b c"], "a 'b c'"), (["echo"], "echo")])
def test_argv_is_shown_as_a_shell_would_take_it(argv: list[str], shown: str) -> None:
    assert check({"argv": argv}).shown == shown


def test_a_record_is_one_line_that_says_letters_as_they_are() -> None:
    data = dump({"command": "echo é\u2028\n"})
    assert data.count(b"\n") == 1
    assert "é".encode() in data
