"""`fsck`: find what should not be in a spool, and mend it.

fsck.py knows what can be wrong; here it is shown. When things go wrong: a spool that cannot be read is SpoolError; what
fsck cannot mend stays in its list, with what it is, for a person.
"""

from __future__ import annotations

import os

from queuectl import config, fsck
from queuectl.cli.door import Given, open_spool
from queuectl.cli.render import safe, say, table, to_json
from queuectl.core.backoff import Policy
from queuectl.errors import NEGATIVE, OK
from queuectl.lease import setting
from queuectl.talk import plural

TEXT = """\
Usage: queuectl fsck [options]

Finds what should not be in a spool: a job in two places, claims of dead
workers, stale temporaries, ids and logs of no job, names that are no names,
contents that are no jobs, wrong modes. What a worker recovers by itself
needs no fsck; it may run while workers do.

Options:
  --repair     mend what can be mended; nothing that a user wrote is deleted,
               what is no job is set aside in dead/
  --json       print a JSON array, an object a finding
  --spool=DIR  the spool's directory
  -h, --help   show this text

Exit code: 0 if nothing is wrong, or all was mended; 1 if something is left.

Examples:
  queuectl fsck
  queuectl fsck --repair
"""


def run(given: Given) -> int:
    spool = open_spool(given)
    stale_after = setting(spool, "stale-after")
    if given["--repair"]:
        settings = config.load(spool.config_path, os.environ)
        policy = Policy(settings.max_retries, settings.backoff_base, settings.backoff_max, settings.jitter,
                        frozenset(settings.permanent_exit_codes))  # fmt: skip
        found = fsck.repair(spool, settings.stale_after, policy, settings.max_log, lambda level, text: say(text))
        after = fsck.check(spool, stale_after)
        left = {finding.path for finding in after}
        before = {finding.path for finding in found}
        found += [finding for finding in after if finding.path not in before]
    else:
        found = fsck.check(spool, stale_after)
        left = {finding.path for finding in found}
    if given["--json"]:
        print(to_json([
            {"kind": f.kind, "path": f.path, "what": f.what, "remedy": f.remedy, "mended": f.path not in left}
            for f in found
        ]))  # fmt: skip
    elif found:
        rows = [[f.kind, safe(os.path.relpath(f.path, spool.root)), safe(f.what), _done(f, left, given)] for f in found]
        table(["KIND", "WHERE", "WHAT", "DONE" if given["--repair"] else "REPAIR WOULD"], rows)
    mended = sum(1 for finding in found if finding.path not in left)
    if given["--repair"] and found:
        say(f"{plural(mended, 'finding')} mended, {len(found) - mended} left for you to decide.")
    elif found:
        say(f"{plural(len(found), 'finding')}. `queuectl fsck --repair` mends what can be mended.")
    elif not given["--json"]:
        say("Nothing is wrong.")
    return NEGATIVE if left else OK


def _done(finding: fsck.Finding, left: set[str], given: Given) -> str:
    if not given["--repair"]:
        return finding.remedy or "leave it to you"
    return "left" if finding.path in left else finding.remedy or "gone"


COMMANDS = {"fsck": (TEXT, run)}
