"""Every link of every page leads somewhere, and every list of contents is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import (
    BEGINNING,
    DEPLOYMENT,
    DOCS,
    FILESYSTEMS,
    GUIDE,
    OPERATIONS,
    PAGES,
    ROOT,
    anchors,
    links,
    prose,
    read,
    sections,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(read(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(read(target)), link


@pytest.mark.parametrize("page", [GUIDE, OPERATIONS], ids=lambda page: page.name)
def test_the_contents_list_every_section(page: Path) -> None:
    head = prose(read(page)).partition("\n## ")[0]
    assert [line[3:].partition("]")[0] for line in head.split("\n") if line.startswith("- [")] == [
        one.title for one in sections(page) if one.title != BEGINNING
    ]


def test_the_shipped_pages_are_read_in_a_terminal() -> None:
    for page in (GUIDE, OPERATIONS, FILESYSTEMS, DEPLOYMENT):
        lines = enumerate(prose(read(page)).split("\n"), 1)
        assert [at for at, line in lines if len(line) > 80 and not line.startswith(("|", "- ["))] == [], page.name


def test_every_page_of_the_manual_is_under_test() -> None:
    assert set(DOCS.glob("*.md")) <= set(PAGES)
