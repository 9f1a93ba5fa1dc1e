"""`init`: make a spool where one is wanted.

When things go wrong: SpoolError says which path, and what to do. What is there already is completed, never emptied.
"""

from __future__ import annotations

import os
import sys

from queuectl.cli.door import Given
from queuectl.cli.render import safe, say, to_json
from queuectl.disk import locate
from queuectl.errors import OK, UsageError
from queuectl.spool import Spool
from queuectl.tree import initialise

TEXT = """\
Usage: queuectl init [options] [<dir>]

Makes a spool, or completes one, and prints its path. It is for its owner
alone (mode 0700), unless --group is given. Without <dir> it is made where
the other commands look for one.

Options:
  --group=NAME  share it with a group of users (mode 2770)
  --json        print a JSON object: the spool's path
  --spool=DIR   the same as <dir>
  -h, --help    show this text

Examples:
  queuectl init
  queuectl init /srv/spool --group staff
"""


def init(given: Given) -> int:
    if given["<dir>"] is not None and given["--spool"] is not None:
        raise UsageError("<dir> and --spool both say where; give one of them.")
    named = given["<dir>"] if given["<dir>"] is not None else given["--spool"]
    root = os.path.abspath(locate(named, os.environ))
    initialise(root, group=None if given["--group"] is None else _group(given["--group"]))
    root = Spool(root, create=False).root
    print(to_json({"spool": root}) if given["--json"] else safe(root))
    if sys.stderr.isatty() and os.path.abspath(locate(None, os.environ)) != root:
        say(f"Name it with --spool, or `export QUEUECTL_SPOOL={safe(root)}`.")
    return OK


def _group(name: str) -> int:
    import grp

    try:
        group = int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"There is no group {name!a} on this host. `getent group` lists them.") from None
    if os.geteuid() and group not in (os.getegid(), *os.getgroups()):
        raise UsageError(f"You are not in the group {name!a}, and only its members may give it a directory.")
    return group


COMMANDS = {"init": (TEXT, init)}
