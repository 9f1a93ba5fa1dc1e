"""`help`: the help texts of the commands, and the pages of queuectl/docs/ that come with the package.

A page may have files beside it, in a directory of its name (deploy.md has deploy/): they are shown after it, or one of
them alone. When things go wrong: an unknown topic is Misuse, with the nearest one and the list.
"""

from __future__ import annotations

import os
import sys

from queuectl.cli import GROUPS, MODULES, text_of
from queuectl.cli import TEXT as OVERVIEW
from queuectl.cli.door import Given, Misuse, usage_of
from queuectl.errors import OK

TEXT = """\
Usage: queuectl help [options] [<topic>...]

Shows the help of a command, a page of the manual, or a file that comes with
a page, as it is.

Options:
  -h, --help  show this text

Examples:
  queuectl help
  queuectl help worker start
  queuectl help deploy queuectl.service
"""


def show_help(given: Given) -> int:
    topic = " ".join(given["<topic>"]).replace(":", " ")
    pages = _pages()
    if not topic:
        sys.stdout.write(OVERVIEW)
        if pages:
            print(f"\nPages, read with `queuectl help <page>`: {', '.join(sorted(pages))}.")
    elif topic in MODULES or topic in GROUPS:
        sys.stdout.write(text_of(topic))
    elif topic.removesuffix(".md") in pages:
        page = topic.removesuffix(".md")
        sys.stdout.write(_read(pages[page]))
        for name, path in sorted(_files(pages[page]).items()):
            print(f"\n{'=' * 10} queuectl help {page} {name} {'=' * 10}\n\n{_read(path)}", end="")
    else:
        files = {f"{page} {name}": path for page in pages for name, path in _files(pages[page]).items()}
        if topic not in files:
            raise _unknown(topic, [*MODULES, *GROUPS, *pages, *files])
        sys.stdout.write(_read(files[topic]))
    return OK


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _files(page: str) -> dict[str, str]:
    """The files that come with a page, and where they lie."""
    directory = page.removesuffix(".md")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return {name: os.path.join(directory, name) for name in names}


def _pages() -> dict[str, str]:
    """The pages that are shipped, and where they lie."""
    directory = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    return {name.removesuffix(".md"): os.path.join(directory, name) for name in names if name.endswith(".md")}


def _unknown(topic: str, known: list[str]) -> Misuse:
    import difflib

    near = difflib.get_close_matches(topic, known, 1)
    hint = f"Did you mean `queuectl help {near[0]}`?" if near else "`queuectl help` lists what there is."
    return Misuse(f"There is no help on {topic!a}. {hint}", usage_of(TEXT))


COMMANDS = {"help": (TEXT, show_help)}
