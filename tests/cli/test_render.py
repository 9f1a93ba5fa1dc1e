"""Rendering: whatever a job file says, a terminal gets printable text, and JSON stays JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.cli.render import block, cut, masked, safe, to_json, width
from queuectl.talk import plural

ANY_TEXT = st.text(st.characters())  # surrogates too
TEXT = st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(ANY_TEXT)
def test_safe_text_is_printable(text: str) -> None:
    assert all(letter.isprintable() or letter == "\u3000" for letter in safe(text))
    assert not text.isprintable() or safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("caf\u00e9 \u65e5\u672c \U0001f600", "caf\u00e9 \u65e5\u672c \U0001f600"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"), ("\x1b[31m", r"\x1b[31m"), ("\x7f\x9b", r"\x7f\x9b"), ("\u202e", r"\u202e"),
        ("\u2066\u200f\ufeff", r"\u2066\u200f\ufeff"), ("\udcff", r"\xff"), ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"), ("back\\slash", "back\\slash"), ("\u3000", "\u3000"),
    ],
)  # fmt: skip
def test_what_is_escaped_and_how(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(VALUES)
def test_json_says_the_same_and_is_printable(value: object) -> None:
    text = to_json(value)
    assert text.isprintable()
    assert text.encode()
    assert json.loads(text) == json.loads(json.dumps(value))


@given(ANY_TEXT)
def test_json_is_valid_whatever_the_text(text: str) -> None:
    found = json.loads(to_json({"name": text}).encode())["name"]
    found.encode()  # no half of a surrogate pair comes through
    assert not any("\ud800" <= letter <= "\udfff" for letter in text) or "\\" in found


def test_blocks_keep_their_lines() -> None:
    assert block("if x\n\ty\x1b\n", "  ") == "if x\n          y\\x1b"


@given(TEXT, st.integers(0, 100))
def test_cut_text_fits(text: str, columns: int) -> None:
    assert width(cut(text, columns)) <= max(columns, 3)


def test_masked_records_keep_the_names() -> None:
    body = {"env": {"A": "1"}, "payload": {"env": {"B": "2"}, "x": 1}, "command": "c"}
    shown = masked(body)
    assert shown == {"env": {"A": "***"}, "payload": {"env": {"B": "***"}, "x": 1}, "command": "c"}
    assert body["env"] == {"A": "1"}


def test_plural() -> None:
    assert [plural(number, "job") for number in (0, 1, 2, 1000)] == ["0 jobs", "1 job", "2 jobs", "1,000 jobs"]
