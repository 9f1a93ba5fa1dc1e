"""The page on reliability names its proofs: each test that it names exists, and each row of the catalogue of faults
stands in it once."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from .pages import RELIABILITY, ROOT, code_spans, prose, read, rows, section

PROMISES, FAULTS, SEVERAL_HOSTS, NOT_SHOWN = (
    "What is promised", "The faults of one host", "The faults of several hosts", "Not yet shown",
)  # fmt: skip
ROWS = range(1, 101)
TEST = re.compile(r"tests/[\w/]+\.py::(?:\w+::)?\w+")
NOT_HERE = "no test here: "


@cache
def _tests(path: str) -> dict[str, bool]:
    """The tests in a file, without running anything, and whether each is expected to fail."""
    found: dict[str, bool] = {}
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[node.name] = any("xfail" in ast.unparse(mark) for mark in node.decorator_list)
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).endswith(".TestCase"):
            found[ast.unparse(node.targets[0])] = False
    return found


def named(text: str) -> list[str]:
    return [span for span in code_spans(text) if span.startswith("tests/") and "::" in span]


def numbers(cell: str) -> list[int]:
    """The rows that a cell stands for: `7`, or `15, 16`."""
    return [int(number) for number in cell.split(", ")]


def table(title: str) -> list[list[str]]:
    return rows(section(RELIABILITY, title).text)


SHOWN = [row for title in (FAULTS, SEVERAL_HOSTS) for row in table(title)]


def test_every_test_that_is_named_exists() -> None:
    spans = named(read(RELIABILITY))
    assert len(set(spans)) > 80
    for span in spans:
        assert TEST.fullmatch(span), span
        path, _, name = span.partition("::")
        assert (ROOT / path).is_file(), span
        assert name in _tests(path), span


def test_every_row_stands_on_the_page_exactly_once() -> None:
    assert sorted(number for title in (FAULTS, SEVERAL_HOSTS, NOT_SHOWN) for row in table(title)
                  for number in numbers(row[0])) == list(ROWS)  # fmt: skip


@pytest.mark.parametrize("row", SHOWN, ids=[row[0] for row in SHOWN])
def test_a_row_says_what_happens_and_what_shows_it(row: list[str]) -> None:
    number, fault, happens, shown = row
    assert fault
    assert happens
    if not shown.startswith(NOT_HERE):
        assert named(shown), f"row {number} names no test"
        for span in named(shown):
            path, _, name = span.partition("::")
            assert not _tests(path)[name], f"row {number}: {name} is expected to fail"
    else:
        assert len(shown) > len(NOT_HERE) + 20, f"row {number} gives no reason"


def test_a_test_that_is_expected_to_fail_is_listed_as_not_yet_shown() -> None:
    listed = set(named(section(RELIABILITY, NOT_SHOWN).text))
    expected = {
        f"tests/faults/{path.name}::{name}"
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        for name, fails in _tests(f"tests/faults/{path.name}").items()
        if fails
    }
    assert expected == {span for span in listed if span.startswith("tests/faults/")}


def test_a_test_named_after_a_row_stands_in_that_row() -> None:
    shown = {n: row[3] for row in SHOWN for n in numbers(row[0])}
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for name, fails in _tests(f"tests/faults/{path.name}").items():
            first = re.match(r"test_row_(\d+)_(?:and_(\d+)_)?", name)
            assert first, f"{path.name}: {name} names no row"
            if not fails:
                for number in filter(None, first.groups()):
                    assert name in shown[int(number)], f"row {number} doesn't name {name}"


def test_every_promise_names_its_mechanism_and_a_test() -> None:
    promises = re.split(r"\n\n(?=\*\*)", section(RELIABILITY, PROMISES).text.strip())
    promises = [text for text in promises if text.startswith("**")]
    assert len(promises) >= 10
    for text in promises:
        assert re.match(r"\*\*[^*]+\.\*\* \S", " ".join(text.split())), text
        assert named(text), text


def test_the_page_is_read_in_a_terminal() -> None:
    lines = enumerate(prose(read(RELIABILITY)).split("\n"), 1)
    assert [at for at, line in lines if len(line) > 80 and not line.lstrip().startswith(("|", "`tests/"))] == []
