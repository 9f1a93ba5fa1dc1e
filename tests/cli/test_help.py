"""The help is the parser: every command has one, it reads well, its options parse, and its examples are true."""

from __future__ import annotations

import re
import shlex

import pytest

from queuectl import __version__
from queuectl.cli import GROUPS, MODULES, TEXT, main, text_of
from queuectl.cli.door import parse
from tests.cli.conftest import Queuectl

NAMES = ["", *GROUPS, *MODULES]
TEXTS = {name: text_of(name) if name else TEXT for name in NAMES}
OPTION = re.compile(r"^  (?:(-\w)(?: \w+)?, )?(--[a-z-]+)(?:=(\S+))?", re.MULTILINE)


def read(name: str, arguments: list[str]) -> dict[str, object]:
    return parse(name, TEXTS[name], arguments, options_first=not name or name in GROUPS)


def examples(text: str) -> list[str]:
    return [line.strip() for line in text.partition("Examples:\n")[2].splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_it_is_exit_0(queue: Queuectl, name: str) -> None:
    assert queue(*name.split(), "--help") == (0, TEXTS[name], "")


@pytest.mark.parametrize("name", NAMES)
def test_help_wins_over_whatever_else_is_wrong(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["-h"], ["--nonsense", "--help"], ["--help", "--nonsense"], ["x", "y", "z", "--help"]):
        if (not name or name in GROUPS) and arguments[0] == "x":
            continue  # that asks for the help of x
        assert main([*name.split(), *arguments]) == 0
        assert capsys.readouterr() == (TEXTS[name], "")


@pytest.mark.parametrize("name", NAMES)
def test_help_reads_well(name: str) -> None:
    text = TEXTS[name]
    assert text.startswith(f"Usage: queuectl {name}".rstrip() + " ")
    assert all(len(line) < 80 for line in text.splitlines())
    assert text.isascii()
    assert text.count("\nExamples:\n") == 1
    assert all(line.startswith("queuectl ") for line in examples(text)), "it ends in its examples"
    assert examples(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_parses(name: str) -> None:
    for line in examples(TEXTS[name]):
        words = shlex.split(line)[1:]
        given = read("", words)
        command = [str(given["<command>"]), *given["<argument>"]]  # type: ignore[misc]
        known = max((n for n in NAMES if n and command[: len(n.split())] == n.split()), key=len)
        assert known.startswith(name), f"{line} is no example of {name}"
        read(known, command[len(known.split()) :])


@pytest.mark.parametrize("name", NAMES)
def test_every_option_parses_in_all_its_spellings(name: str) -> None:
    options = OPTION.findall(TEXTS[name])
    assert "--help" in {long for _, long, _ in options}
    required = ["--all"] if name in ("wait", "dlq retry") else ["x"] * TEXTS[name].partition("\n")[0].count("<")
    required = [] if not name or name in (*GROUPS, "enqueue", "init", "help", "demo", "worker stop") else required
    for short, long, value in options:
        if long == "--help":
            continue
        spellings = [[f"{long}=7"], [long, "7"]] if value else [[long]]
        spellings += ([[short, "7"], [f"{short}7"]] if value else [[short]]) if short else []
        for words in spellings:
            given = read(name, [*required[: 0 if long == "--all" else None], *words])
            assert given[long] in ("7", ["7"], True), words


@pytest.mark.parametrize("name", [*GROUPS, *MODULES])
def test_help_on_a_command_is_the_same_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (name.split(), [name.replace(" ", ":")]):
        assert main(["help", *words]) == 0
        assert capsys.readouterr() == (TEXTS[name], "")


def test_the_overview_names_every_command(queue: Queuectl) -> None:
    listed = re.findall(r"^  ([a-z]+)  ", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted({name.partition(" ")[0] for name in MODULES})
    assert queue("help").out.startswith(TEXT)


def test_every_group_names_its_actions() -> None:
    for group in GROUPS:
        listed = re.findall(r"^  ([a-z]+)  ", TEXTS[group], re.MULTILINE)
        known = [name.removeprefix(f"{group} ") for name in MODULES if name.startswith(f"{group} ")]
        assert sorted(listed) == sorted(known)


def test_pages_that_are_shipped_can_be_read(queue: Queuectl) -> None:
    line = queue("help").out.splitlines()[-1]
    assert line.startswith("Pages, read with `queuectl help <page>`: ")
    for page in line.partition(": ")[2].rstrip(".").split(", "):
        assert queue.ok("help", page).startswith("# ")


def test_version(queue: Queuectl) -> None:
    assert queue("--version") == (0, f"queuectl {__version__}\n", "")
