"""The pages under test, and their parts: sections, fenced blocks, tables, links and anchors.

Knows as much Markdown as these pages use, and complains about what it doesn't know: a fence without a language, a
fence that is never closed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "queuectl" / "docs"
README = ROOT / "README.md"
GUIDE = DOCS / "guide.md"
OPERATIONS = DOCS / "operations.md"
INTERNALS = DOCS / "internals.md"
RELIABILITY = DOCS / "reliability.md"
PERFORMANCE = DOCS / "performance.md"
FILESYSTEMS = DOCS / "filesystems.md"
SCALING = DOCS / "scaling.md"
DEPLOYMENT = DOCS / "deploy.md"
CHANGELOG = ROOT / "CHANGELOG.md"
SPOOL = ROOT / "spool" / "README.md"
PAGES = (
    README, GUIDE, OPERATIONS, INTERNALS, RELIABILITY, PERFORMANCE, FILESYSTEMS, SCALING, DEPLOYMENT, CHANGELOG, SPOOL,
)  # fmt: skip

BEGINNING = "(beginning)"
LANGUAGES = frozenset({"console", "sh", "python", "js", "json", "cron", "toml", "ini", "text"})


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line where it begins."""

    language: str
    text: str
    line: int


class Section(NamedTuple):
    """What stands under a heading of the second level, with all that is below it."""

    title: str
    blocks: list[Block]
    text: str


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, first: int = 1) -> list[Block]:
    """The fenced blocks of a text whose first line has that number. AssertionError if one is never closed."""
    found = []
    language, lines, start = None, [], 0
    for number, line in enumerate(text.split("\n"), first):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines, start = line.strip().removeprefix("```"), [], number
        else:
            assert line.strip() == "```", f"line {number}: a fence within a fence"
            found.append(Block(language, "\n".join(lines) + "\n", start))
            language = None
    assert language is None, f"line {start}: this fence is never closed"
    return found


def prose(text: str) -> str:
    """The text without its fenced blocks; lines keep their numbers."""
    kept, fenced = [], False
    for line in text.split("\n"):
        fence = line.lstrip().startswith("```")
        kept.append("" if fenced or fence else line)
        fenced ^= fence
    return "\n".join(kept)


def sections(page: Path) -> list[Section]:
    """The sections of a page, by its headings of the second level; first what stands above them all."""
    lines = read(page).split("\n")
    starts = [number for number, line in enumerate(prose(read(page)).split("\n")) if line.startswith("## ")]
    found = [Section(BEGINNING, blocks("\n".join(lines[: starts[0]])), "\n".join(lines[: starts[0]]))]
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        text = "\n".join(lines[start + 1 : end])
        found.append(Section(lines[start].removeprefix("## "), blocks(text, start + 2), text))
    return found


def section(page: Path, title: str) -> Section:
    return next(one for one in sections(page) if one.title == title)


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their heads, cell by cell."""
    found = []
    lines = prose(text).split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            if number + 1 < len(lines) and re.fullmatch(r"\|[|\s:-]+", lines[number + 1]):
                continue
            found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return found


def code_spans(text: str) -> list[str]:
    """What stands in `backticks`, outside of fenced blocks. A span may be broken over two lines."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def links(text: str) -> list[str]:
    """The targets of all [links](to somewhere)."""
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(text)))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[`*]", "", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number, unique = 0, anchor
        while unique in made:
            number += 1
            unique = f"{anchor}-{number}"
        made.add(unique)
    return made
