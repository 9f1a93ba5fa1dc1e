"""The door: where arguments come in as text and go on as values.

Owns the parsing of one command's arguments by that command's own help text, the conversion of option values, and the
opening of the spool that a command asks for. Never prints.

When things go wrong: whatever is not understood is Misuse, with one sentence and the usage line; what it says is worked
out in usage.py, which is imported only then. A request for help is HelpWanted, whatever else stands on the line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from queuectl.errors import UsageError

if TYPE_CHECKING:
    from queuectl.spool import Spool

Given = dict[str, Any]  # what docopt returns: text, lists of text, booleans and None


class Misuse(UsageError):
    """A command line that is not understood. `usage` is shown after the sentence."""

    def __init__(self, message: str, usage: str = "") -> None:
        super().__init__(message)
        self.usage = usage


class HelpWanted(Exception):
    """The user asked for `text`; that is all the command has to do."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse(name: str, text: str, argv: list[str], *, options_first: bool = False) -> Given:
    """What `argv` (without the command words `name`) means to the command that `text` describes.

    docopt takes one word for the program's name, so the command words are left out of the text as well.
    """
    from docopt import DocoptExit, docopt

    formal = text.replace(f"queuectl {name} ", "queuectl ", 1) if name else text
    try:
        given: Given = docopt(formal, argv, default_help=False, options_first=options_first)
    except DocoptExit as error:
        from queuectl.cli.usage import explain

        raise explain(name, text, formal, argv, str(error.code)) from None
    if given["--help"]:
        raise HelpWanted(text)
    return given


def usage_of(text: str) -> str:
    """The usage line of a help text."""
    return text.partition("\n\n")[0]


def whole(given: Given, option: str, low: int = 0) -> int | None:
    """An option's value as a whole number; None if it was not given."""
    text = given[option]
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low or not text.isascii():
        raise UsageError(f"{option} must be a whole number{f' from {low} up' if low > -99 else ''}, not {text!a}.")
    return number


def seconds(given: Given, option: str) -> float | None:
    """An option's value as seconds (`90`, `90s`, `10m`, `1h30m`, `2d`); None if it was not given."""
    text = given[option]
    if text is None:
        return None
    from queuectl.core.times import parse_duration

    try:
        return parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option}: {error}.") from None


def open_spool(given: Given, *, create: bool = False) -> Spool:
    """The spool that the command line asks for. `create`: make it if it isn't there, and say so."""
    from queuectl.disk import locate
    from queuectl.spool import Spool

    path = locate(given["--spool"], os.environ)
    new = create and not os.path.exists(os.path.join(path, ".id"))
    spool = Spool(path, create=create)
    if new:
        from queuectl.cli.render import say

        say(f"Made a new spool at {spool.root}.")
    return spool
