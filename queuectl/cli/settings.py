"""`config set`, `config get`, `config list`, `config unset`: the settings of a spool.

config.py knows the settings and where each value comes from; the spool writes the file. Here they are asked for and
shown. When things go wrong: an unknown key or a value that cannot be is ConfigError (exit 4), and nothing is changed.
"""

from __future__ import annotations

import os
from typing import Any

from queuectl import config
from queuectl.cli.door import Given, open_spool
from queuectl.cli.render import safe, say, table, to_json
from queuectl.errors import OK, ConfigError

GROUP = """\
Usage: queuectl config [options] [<action> [<argument>...]]

The settings of a spool, in its config.toml. A flag wins over the
environment, that over config.toml, and that over the default. Workers take
changes up at once.

Actions:
  set          change a setting
  get          print a setting's value
  list         all settings, their values, and where these come from
  unset        return to the default

Options:
  --spool=DIR  the spool's directory
  -h, --help   show this text; `queuectl config <action> --help` shows more

Examples:
  queuectl config list
  queuectl config set max-retries 5
"""

SET = """\
Usage: queuectl config set [options] [--] <key> <value>

Changes a setting in config.toml. Keys may be written with - or _.

Options:
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl config set max-retries 5
  queuectl config set backoff_base 1.5
  queuectl config set default-timeout 10m
"""

GET = """\
Usage: queuectl config get [options] [--] <key>

Prints the value that is in force.

Options:
  --json       print a JSON object: key, value and source
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl config get max-retries
"""

LIST = """\
Usage: queuectl config list [options]

Lists all settings, their values, and where these come from.

Options:
  --json       print a JSON object: value and source of each key
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl config list
"""

UNSET = """\
Usage: queuectl config unset [options] [--] <key>...

Takes settings out of config.toml, so that the defaults are in force again.

Options:
  --spool=DIR  the spool's directory
  -h, --help   show this text

Examples:
  queuectl config unset max-retries
"""


def set_value(given: Given) -> int:
    spool = open_spool(given, create=True)
    spool.change_config({given["<key>"]: given["<value>"]})
    _warn_of_override(spool.config_path, config.canonical(given["<key>"]))
    return OK


def get(given: Given) -> int:
    key = config.canonical(given["<key>"])
    spool = open_spool(given)
    value, source = config.sources(spool.config_path, os.environ, warn=say)[key]
    if given["--json"]:
        print(to_json({"key": key, "value": value, "source": source}))
    else:
        print(safe(config.say(key, value)))
    return OK


def list_all(given: Given) -> int:
    spool = open_spool(given)
    found = config.sources(spool.config_path, os.environ, warn=say)
    if given["--json"]:
        print(to_json({key: {"value": value, "source": source} for key, (value, source) in found.items()}))
        return OK
    table(
        ("KEY", "VALUE", "SOURCE", "WHAT IT IS"),
        [(key, config.say(key, value), _place(source), config.BY_KEY[key].help)
         for key, (value, source) in found.items()],
    )  # fmt: skip
    if wrong := config.problem(spool.config_path, os.environ):
        say(wrong)
    return OK


def unset(given: Given) -> int:
    spool = open_spool(given)
    changes: dict[str, Any] = dict.fromkeys(given["<key>"])
    spool.change_config(changes)
    return OK


def _place(source: str) -> str:
    return f"${source}" if source.isupper() else source


def _warn_of_override(path: str, key: str) -> None:
    """The environment wins over the file: who sets a value in vain wants to know."""
    try:
        _, source = config.sources(path, os.environ)[key]
    except ConfigError as error:  # the value was set; something else is wrong
        say(str(error))
        return
    if source.isupper():
        say(f"${source} is set in this environment and wins over config.toml here. Unset it to use the new value.")


COMMANDS = {
    "config set": (SET, set_value), "config get": (GET, get), "config list": (LIST, list_all),
    "config unset": (UNSET, unset),
}  # fmt: skip
