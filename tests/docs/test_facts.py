"""What the pages say is what the code does: commands, options, settings, members, exit codes, numbers, words."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import queuectl
from queuectl import config, errors
from queuectl.cli import GROUPS, INTERRUPTED, MODULES, TEXT, text_of
from queuectl.cli.door import parse
from queuectl.core import backoff, job

from .pages import (
    CHANGELOG,
    DOCS,
    GUIDE,
    INTERNALS,
    OPERATIONS,
    PAGES,
    PERFORMANCE,
    README,
    ROOT,
    blocks,
    code_spans,
    read,
    rows,
    section,
)
from .runner import Reader

MANUAL = (README, GUIDE, OPERATIONS)
MANUAL_TEXT = "\n".join(map(read, MANUAL))

# Options that the pages name and that are other programs' own.
FOREIGN_OPTIONS = {"--user", "--upgrade", "--bind", "--strict", "--without-pip", "--python",
                   "-o"}


def test_every_command_has_an_example_in_readme() -> None:
    shown = "\n".join(block.text for block in section(README, "Commands").blocks)
    for word in MODULES:
        assert re.search(rf"\bqueuectl {word}\b", shown), word


def test_every_command_is_listed_in_the_changelog_of_its_version() -> None:
    assert set(MODULES) <= set(code_spans(read(CHANGELOG)))


def test_the_top_of_the_changelog_is_this_version() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", read(CHANGELOG), re.MULTILINE)
    assert versions[0] == queuectl.__version__


# -- commands and options ---------------------------------------------------------------------------------------------


def _said_commands(page: Path) -> list[str]:
    """The command lines that a page names in its text, and in the blocks that no test executes."""
    lines = [span for span in code_spans(read(page)) if span.startswith("queuectl ")]
    for block in blocks(read(page)):
        if block.language in ("text", "ini"):
            lines += re.findall(r"(?:^|/)(queuectl [^|#&`\n]+)", block.text, re.MULTILINE)
    return lines


@pytest.mark.parametrize("page", [*PAGES], ids=lambda page: page.name)
def test_every_command_line_that_is_named_is_understood(page: Path) -> None:
    said = 0
    for line in _said_commands(page):
        if "..." in line or line == "queuectl enqueue --batch":
            continue
        words = shlex.split(line)[1:]
        given = parse("", TEXT, words, options_first=True)
        word, rest = given["<command>"], given["<argument>"]
        if word in GROUPS:
            if not rest:
                continue
            word, rest = f"{word} {rest[0]}", rest[1:]
        if word is not None and rest:
            parse(word, text_of(word), rest)
        elif word is not None:
            assert word in MODULES, line
        said += 1
    assert said or page in (CHANGELOG, INTERNALS, PERFORMANCE)


def test_every_option_that_is_named_exists() -> None:
    helps = TEXT + "".join(map(text_of, [*MODULES, *GROUPS]))
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", helps)) | FOREIGN_OPTIONS
    for page in PAGES:
        for span in code_spans(read(page)):
            if span.startswith("-") and not span.startswith(("-999", "- ")):
                assert span.split()[0].split("=")[0] in known | {"-", "--"}, f"{page.name}: {span}"


def test_help_that_is_quoted_is_the_help() -> None:
    helps = [TEXT, *map(text_of, [*MODULES, *GROUPS])]
    for page in PAGES:
        for block in blocks(read(page)):
            if block.text.startswith("Usage: queuectl"):
                assert block.text in helps, f"{page.name}, line {block.line}"


@pytest.mark.parametrize("topic", ["guide", "operations", "internals", "filesystems"])
def test_the_manual_is_read_with_help(topic: str, tmp_path: Path) -> None:
    assert Reader(tmp_path).run("queuectl", "help", topic) == read(DOCS / f"{topic}.md")


# -- settings ---------------------------------------------------------------------------------------------------------


def _settings_table() -> dict[str, list[str]]:
    return {code_spans(row[0])[0]: row for row in rows(section(README, "Settings").text)}


def test_readme_lists_every_setting() -> None:
    assert list(_settings_table()) == [setting.key for setting in config.SETTINGS]


@pytest.mark.parametrize("setting", config.SETTINGS, ids=lambda setting: setting.key)
def test_a_setting_is_as_readme_says(setting: config.Setting) -> None:
    key, default, environment, _ = _settings_table()[setting.key]
    assert config.read_value(setting.key, default, "README.md") == setting.default
    assert tuple(code_spans(environment)) == (
        setting.environment or (f"QUEUECTL_{setting.key.replace('-', '_').upper()}",)
    )
    older = [name for name, meant in config._SPELLINGS.items() if meant == setting.key]
    assert [name.replace("_", "-") for name in code_spans(key)[1:]] == older


def test_the_pages_name_the_settings_of_a_worker_start_as_its_help_does() -> None:
    for setting in config.SETTINGS:
        assert f"--{setting.key}=" in text_of("worker start")


# -- the job ----------------------------------------------------------------------------------------------------------


def test_readme_describes_every_member_and_no_other() -> None:
    table = rows(section(README, "The job").text)
    described = {code_spans(row[0])[0] for row in table}
    assert described == set(job.Job._fields) - {"history", "body"}
    added = set(code_spans(section(README, "The job").text)) & set(job.KNOWN)
    assert added == job.KNOWN, job.KNOWN - added


def test_readme_lists_every_other_spelling_of_a_member() -> None:
    said = set(code_spans(section(README, "The job").text))
    assert set(job._SPELLINGS) <= said, set(job._SPELLINGS) - said
    for row in rows(section(README, "The job").text):
        for spelling in code_spans(row[2]):
            if spelling in ("command", "payload"):
                continue
            assert job._SPELLINGS.get(spelling, spelling.replace("-", "_")) == code_spans(row[0])[0]


def test_the_spellings_of_earlier_programs_are_taken() -> None:
    said = ["jobId", "job_id", "runAt", "next_run_at", "maxRetries", "default_max_retries", "createdAt", "payload"]
    assert set(said) <= set(code_spans(read(GUIDE)))
    given = {"jobId": "x", "runAt": "2036-01-01T00:00:00Z", "maxRetries": 1, "payload": {"command": "echo hi"}}
    checked = job.check(given)
    assert (checked.id, checked.max_retries, checked.command) == ("x", 1, "echo hi")
    assert checked.run_at is not None
    assert "`worker:start`" in read(README)


def test_variables_that_are_named_exist_and_all_are_named() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "queuectl").rglob("*.py"))
    used = set(re.findall(r"QUEUECTL_[A-Z_]*[A-Z]", code)) - {"QUEUECTL_PRETEND_HOST"}
    used |= {f"QUEUECTL_{setting.key.replace('-', '_').upper()}" for setting in config.SETTINGS}
    assert set(re.findall(r"QUEUECTL_[A-Z_]*[A-Z]", MANUAL_TEXT)) == used


# -- exit codes, numbers, words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "title"), [(README, "Commands"), (GUIDE, "Scripts that read queuectl"), (OPERATIONS, "Exit codes")]
)
def test_the_exit_codes_are_those_of_the_code(page: Path, title: str) -> None:
    said = {int(row[0]): row[1] for row in rows(section(page, title).text) if row[0].isdigit()}
    assert set(said) == {
        errors.OK, errors.NEGATIVE, errors.USAGE, errors.SPOOL, errors.CONFIG, errors.TIMED_OUT, INTERRUPTED
    }  # fmt: skip
    assert said[errors.NEGATIVE].startswith("a negative answer")
    assert said[errors.USAGE].startswith("the command line")
    assert said[errors.SPOOL].startswith("trouble with the spool")
    assert said[errors.CONFIG].startswith("a setting")
    assert set(map(str, said)) <= set(re.findall(r"\d+", TEXT.partition("Exit codes")[2]))


def test_the_exit_codes_of_jobs_are_those_of_the_code() -> None:
    said = [row[0] for row in rows(section(GUIDE, "Retries and backoff").text)]
    assert said[1].startswith(str(*config.BY_KEY["permanent-exit-codes"].default))
    assert set(map(int, re.findall(r"\b\d+\b", said[2]))) == backoff.ALWAYS_RETRIED


@pytest.mark.parametrize(
    ("page", "sentence", "constant", "value"),
    [
        (GUIDE, "SIGTERM, five seconds later SIGKILL", "TERM_GRACE", 5),
        (GUIDE, "has been quiet for five seconds", "SETTLE_TIME", 5),
        (GUIDE, "At most 1 MiB", "LARGEST_FILE", 1 << 20),
        (GUIDE, "runs at most half a minute late", "SLOW_SCAN", 30),
        (GUIDE, "-999 to 999", "LOWEST_PRIORITY, HIGHEST_PRIORITY", (-999, 999)),
        (README, "1 to 100 letters", "LONGEST_ID", 100),
        (README, "-999 to 999", "LOWEST_PRIORITY, HIGHEST_PRIORITY", (-999, 999)),
        (README, "`.tmp`, `.part`, `.swp` or `~`", "UNFINISHED", (".tmp", ".part", ".swp", "~")),
        (OPERATIONS, "up to eight more for each worker", "MOST_AHEAD", 8),
        (OPERATIONS, "after 5 seconds SIGKILL", "TERM_GRACE", 5),
        (OPERATIONS, "at most 30 seconds late", "SLOW_SCAN", 30),
        (OPERATIONS, "(`queuectl-1`)", "LAYOUT", 1),
    ],
)
def test_a_number_is_that_of_the_code(page: Path, sentence: str, constant: str, value: object) -> None:
    assert sentence in " ".join(read(page).split())
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "queuectl").rglob("*.py"))
    (found,) = re.findall(rf"^{re.escape(constant)} = (.+?)(?:  #.*)?$", code, re.MULTILINE)
    assert value == (1 << 20 if found == "1 << 20" else ast.literal_eval(found))


@pytest.mark.parametrize(
    ("page", "sentence", "key", "value"),
    [
        (OPERATIONS, "(64 MiB)", "min-free", 64 << 20),
        (OPERATIONS, "`max-log` (1 GiB)", "max-log", 1 << 30),
        (GUIDE, "`max-log` (1 GiB)", "max-log", 1 << 30),
        (OPERATIONS, "`stale-after` (2 minutes)", "stale-after", 120),
        (OPERATIONS, "until its next heartbeat (10 s)", "heartbeat", 10),
        (OPERATIONS, "`poll-interval` (1 s)", "poll-interval", 1),
        (GUIDE, "`stale-after` (two minutes)", "stale-after", 120),
    ],
)
def test_a_default_is_that_of_the_code(page: Path, sentence: str, key: str, value: object) -> None:
    assert sentence in " ".join(read(page).split())
    assert value == config.BY_KEY[key].default


def test_cancel_waits_as_long_as_operations_says() -> None:
    assert "has not answered for 30 seconds" in " ".join(read(OPERATIONS).split())
    assert "[default: 30s]" in text_of("cancel")


def test_the_words_of_the_guide_are_those_of_internals() -> None:
    words = {row[0].strip("*"): row[1] for row in rows(section(GUIDE, "Words").text)}
    ours = re.findall(r"\*\*(\w+)\*\*\s+([^·]+?)\s*(?:·|\.\Z)", section(INTERNALS, "Words").text.strip())
    assert len(ours) > 10
    assert {word: words.get(word) for word, _ in ours} == {word: " ".join(meaning.split()) for word, meaning in ours}


def test_the_python_api_is_taught() -> None:
    taught = "".join(block.text for block in section(GUIDE, "The Python API").blocks)
    for name in set(queuectl.__all__) - {"__version__"}:
        assert re.search(rf"\b{name}\(", taught), name
    for name in re.findall(r"queuectl\.errors\.(\w+)", read(GUIDE)):
        assert issubclass(getattr(errors, name), errors.QueuectlError)


def test_every_module_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"`(?:queuectl/)?((?:core/|cli/)?\w+\.py)`", read(page)):
            assert list((ROOT / "queuectl").rglob(name)), f"{page.name}: {name}"
