"""Instants and durations, against datetime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queuectl.core.times import (
    LAST,
    SECOND,
    clamp,
    iso,
    local,
    next_stamp,
    parse_duration,
    parse_instant,
    say_duration,
    stamp,
    unstamp,
)
from tests.unit import strategies as some

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=ns // 1000)


@given(some.instants)
@example(0)
@example(LAST)
@example(951_782_400 * SECOND)  # 29 February 2000
@example(4_107_542_399 * SECOND)  # the end of 28 February 2100
def test_stamp_and_iso_say_what_datetime_says(ns: int) -> None:
    when = moment(ns)
    assert stamp(ns) == when.strftime("%Y%m%dT%H%M%S.%fZ")
    assert iso(ns) == when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@given(st.integers(0, LAST // 86400 // SECOND))
def test_every_day_is_the_day_that_datetime_says(days: int) -> None:
    assert iso(days * 86400 * SECOND)[:10] == (EPOCH + timedelta(days=days)).strftime("%Y-%m-%d")


@given(some.instants)
def test_a_stamp_reads_back_to_the_microsecond(ns: int) -> None:
    assert unstamp(stamp(ns)) == ns // 1000 * 1000
    assert parse_instant(iso(ns)) == ns // 1000 * 1000


@given(some.instants, some.instants)
def test_stamps_sort_as_time_does(one: int, other: int) -> None:
    assert (stamp(one) <= stamp(other)) == (one // 1000 <= other // 1000)


@given(st.integers(-(10**20), 10**20))
def test_an_instant_that_no_stamp_can_say_becomes_the_nearest_that_can(ns: int) -> None:
    assert 0 <= clamp(ns) <= LAST
    assert unstamp(stamp(ns)) == clamp(ns) // 1000 * 1000


@given(st.integers(0, LAST - SECOND))
def test_the_next_stamp_is_a_microsecond_later(ns: int) -> None:
    assert unstamp(next_stamp(stamp(ns))) - unstamp(stamp(ns)) == 1000


@given(st.text(max_size=30))
@example("20261122T091530.12345\uff11Z")
@example("20261122T091530.123456z")
@example("20261122 091530.123456Z")
@example("20261322T091530.123456Z")
def test_no_other_text_is_a_stamp(text: str) -> None:
    try:
        ns = unstamp(text)
    except ValueError:
        return
    assert stamp(ns) == text


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.timezones())
def test_iso_with_any_zone_is_the_instant_that_datetime_says(when: datetime, zone: object) -> None:
    when = when.replace(tzinfo=zone)  # type: ignore[arg-type]
    if when.utcoffset() is not None:
        when = datetime.fromisoformat(when.isoformat())  # the offset that the text says, to the second
        assert parse_instant(when.isoformat()) == (when - EPOCH) // timedelta(microseconds=1) * 1000


@pytest.fixture(params=["UTC", "Europe/Zurich", "America/St_Johns", "Pacific/Kiritimati", "XYZ-05:45", ""])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-29T12:00:00", datetime(2026, 3, 29, 12)),
        ("2026-11-22 09:15", datetime(2026, 11, 22, 9, 15)),
        ("2026-11-22", datetime(2026, 11, 22)),
        ("  2026-11-22T09:15:30.5  ", datetime(2026, 11, 22, 9, 15, 30, 500_000)),
        ("20261122T091530", datetime(2026, 11, 22, 9, 15, 30)),
    ],
)
def test_without_a_zone_a_time_is_local(zone: str, text: str, expected: datetime) -> None:
    assert parse_instant(text) == int(expected.timestamp() * 1_000_000) * 1000


@pytest.mark.parametrize("text", ["2026-11-22T09:15:30Z", "2026-11-22T10:15:30+01:00", "2026-11-22T09:15:30+00:00"])
def test_with_a_zone_the_local_zone_has_no_say(zone: str, text: str) -> None:
    assert iso(parse_instant(text)) == "2026-11-22T09:15:30.000000Z"


def test_what_people_see_is_the_instant_in_their_own_zone(zone: str) -> None:
    ns = 1_795_338_930 * SECOND
    assert datetime.strptime(local(ns), "%Y-%m-%d %H:%M:%S %z") == moment(ns)


@given(some.instants)
def test_people_can_be_shown_any_instant(ns: int) -> None:
    assert len(local(ns)) >= 19


@given(st.text(max_size=30))
@example("0001-01-01T00:00:00Z")
@example("9999-12-31T23:59:59.999999-23:59")
@example("0001-01-01")
@example("9999-12-31")
@example("2026-11-22T24:00:00")
@example("\ud800")
def test_any_text_is_an_instant_or_is_refused_with_a_sentence(text: str) -> None:
    try:
        assert 0 <= parse_instant(text) <= LAST
    except ValueError as error:
        said = str(error)
    else:
        return
    assert "is no time; write it as" in said or "lies outside" in said
    assert said.isprintable()


# -- durations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("3h", 10_800), ("2d", 172_800), ("1w", 604_800), ("1.5h", 5400),
     ("1h30m", 5400), ("1d12h", 129_600), ("0", 0), ("0.25", 0.25), ("1m30s", 90)],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "-5", "+5", "5 s", "5S", "1e3", "inf", "nan", "5x", "5ms", "\uff15s", "\u0665", "1..5", ".5", "5.", "5m5",
     "1h30", "1_000", "0x10", "5s\n", "9" * 400],
)  # fmt: skip
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write it as 90s, 10m, 3h or 2d"):
        parse_duration(text)


@given(st.text("0123456789.smhdw", max_size=20))
def test_any_text_is_a_finite_duration_or_is_refused(text: str) -> None:
    try:
        assert 0 <= parse_duration(text) < float("inf")
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (0.25, "0.25s"), (0.0012345, "0.00123s"), (0.0000593, "0.000059s"), (90, "90s"),
     (119.4, "119s"), (120, "2m"), (179, "2m59s"), (720, "12m"),
     (3599.9, "59m59s"), (3600, "1h"), (5400, "1h30m"), (12_000, "3h20m"), (172_799, "47h59m"), (172_800, "2d"),
     (187_200, "2d4h"), (604_800, "7d")],
)  # fmt: skip
def test_durations_are_said_in_one_or_two_units(seconds: float, said: str) -> None:
    assert say_duration(seconds) == said


@given(st.floats(0, 1e9))
def test_a_duration_that_is_said_is_about_right(seconds: float) -> None:
    said = say_duration(seconds)
    if "e" not in said:
        assert parse_duration(said) == pytest.approx(seconds, rel=0.05, abs=0.01)
