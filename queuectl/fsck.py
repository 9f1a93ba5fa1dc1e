"""fsck: finds what should not be in a spool, and mends it without deleting anything that a user wrote.

Owns the list of what can be wrong. What a worker recovers by itself is found here too, and `repair` does it through the
same code (recover.py). Files that are no jobs are set aside in dead/ with their bytes; what is removed is queuectl's
own: drafts, spent claims, reservations of ids without a job, empty logs of jobs that are gone.

When things go wrong: a spool in use is looked at as it is. A mend is a rename or removal of the very name that was
found, so what has moved meanwhile is left alone. SpoolError if something cannot be read at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from queuectl import config
from queuectl.core.backoff import Policy
from queuectl.core.names import SUFFIX, UNFINISHED, is_ignored
from queuectl.core.states import DEAD, FAILED, PENDING, PROCESSING, STATES, TERMINAL
from queuectl.disk import IDS, LOGS, TMP
from queuectl.errors import BadJob, SpoolError
from queuectl.lease import ROLE_CLI, Census, Lease
from queuectl.recover import Recovery, doubles, set_doubles_aside
from queuectl.spool import DRAFT_AGE, REJECTED, Spool, entry_of


class Finding(NamedTuple):
    """One thing that should not be: a kind for scripts, where, what it is, and what `--repair` does about it (empty:
    nothing, a person must decide). `mend` does it."""

    kind: str
    path: str
    what: str
    remedy: str
    mend: Callable[[], object] | None = None


def check(spool: Spool, stale_after: float) -> list[Finding]:
    """All findings, in the order in which they should be mended. `stale_after` is the setting (seconds)."""
    finders = (_settings, _modes, _claims, _temporaries, _doubles, _contents, _strangers, _ids, _logs)
    return [finding for finder in finders for finding in finder(spool, stale_after)]


def repair(
    spool: Spool, stale_after: float, policy: Policy, max_log: int | None, say: Callable[[str, str], None]
) -> list[Finding]:
    """Recover what dead workers left, then mend what `check` finds. What was found before is returned. `stale_after`
    (seconds) and `max_log` (bytes, None for no bound) are the settings."""
    found = check(spool, stale_after)
    with Lease(spool, ROLE_CLI) as lease:
        census = Census(spool, stale_after, lease.worker)
        recovery = Recovery(spool, lease, lambda: policy, say, lambda: max_log)
        recovery.run(lambda: census.look(time.monotonic()), spool.clock())
    set_doubles_aside(spool, say, copied=True)
    tried: set[str] = set()
    while mends := [(one.path, one.mend) for one in check(spool, stale_after) if one.mend and one.path not in tried]:
        for path, mend in mends:  # and again, for what is set aside leaves its id and its empty log behind
            tried.add(path)
            try:
                mend()
            except SpoolError as error:
                if not error.is_of_one_file:  # what only its owner may do is left to him
                    raise
                say("warning", str(error))
    return found


def _living(spool: Spool, stale_after: float) -> set[str]:
    """Who may be alive. Another host's worker counts as alive here: fsck doesn't wait to see whether it is."""
    return {info.id for info in Census(spool, stale_after).look(time.monotonic()) if info.alive}


def _settings(spool: Spool, _: float) -> Iterator[Finding]:
    if wrong := config.problem(spool.config_path, {}):
        yield Finding("settings", spool.config_path, wrong, "")


def _modes(spool: Spool, _: float) -> Iterator[Finding]:
    for path, mode, wanted, why in spool.wrong_modes():
        yield Finding(
            "mode", path, f"its mode is {mode:04o}: {why}", f"set it to {wanted:04o}",
            lambda path=path, wanted=wanted: spool.set_mode(path, wanted),  # type: ignore[misc]
        )  # fmt: skip


def _claims(spool: Spool, stale_after: float) -> Iterator[Finding]:
    claims = spool.claims()  # before the leases: a claim is younger than its lease
    living = _living(spool, stale_after)
    for claim in claims:
        if claim.worker not in living:
            yield Finding("claim", spool.dir(PROCESSING) + claim.name, f"its worker {claim.worker} is dead",
                          "recover the job, as any worker would")


def _temporaries(spool: Spool, stale_after: float) -> Iterator[Finding]:
    records, spent, others = spool.temporary()
    living = _living(spool, stale_after)
    stems = {c.stem for c in spool.temporary()[1]} | {c.stem for c in spool.claims()}
    stale = [r.name for r in records if r.claim.worker not in living and r.claim.stem not in stems]
    stale += [claim.spent for claim in spent if claim.worker not in living]
    for name in others:
        owner, _, kind = name.partition("=")
        dead = owner.rpartition(".")[0] not in living if kind == "spare" else spool.draft_age(name) > DRAFT_AGE
        if dead:
            stale.append(name)
    for name in stale:
        yield Finding("temporary", spool.dir(TMP) + name, "its writer is dead, and nobody needs it", "remove it")


def _doubles(spool: Spool, _: float) -> Iterator[Finding]:
    for loser, winner in doubles(spool, copied=True):
        yield Finding("double", spool.path_of(loser), f"job {loser.id} also lies in {winner.state}/, and wins there",
                      "set it aside in dead/ as .rejected")


def _contents(spool: Spool, _: float) -> Iterator[Finding]:
    for entry in spool.entries(STATES):
        if not entry.id:
            continue
        try:
            job = spool.load(entry)
            reason = "" if job is None or job.id in (None, entry.id) else f"its content says that it is job {job.id}"
        except BadJob as error:
            reason = str(error)
        except SpoolError as error:
            if not error.is_of_one_file:
                raise
            yield Finding("content", spool.path_of(entry), str(error), "")
            continue
        if reason:
            yield Finding(
                "content", spool.path_of(entry), reason, "set it aside in dead/ as .rejected",
                lambda e=entry, why=reason: spool.reject(e.state, e.name, why),  # type: ignore[misc]
            )  # fmt: skip


def _strangers(spool: Spool, _: float) -> Iterator[Finding]:
    """Names that are no names. In pending/ any name is a dropped file, and workers look after those."""
    for state in (PROCESSING, FAILED, *TERMINAL):
        for name in spool.names(state):
            if name.startswith(".") or entry_of(state, name) is not None:
                continue
            if state == DEAD and (name.endswith(REJECTED) or _has_its_file(spool, name)):
                continue
            if spool.is_directory(name, state):
                yield Finding("stranger", spool.dir(state) + name, "a directory is no job", "")
                continue
            if state == DEAD and name.endswith(f"{REJECTED}.reason"):
                yield Finding("stranger", spool.dir(state) + name, "the reason of a file that is not there any more",
                              "remove it", lambda n=name: spool.remove_rejected(n.removesuffix(".reason")))  # type: ignore[misc]
                continue
            yield Finding(
                "stranger", spool.dir(state) + name, f"no name that {state}/ can hold",
                "set it aside in dead/ as .rejected",
                lambda s=state, n=name: spool.reject(s, n, f"{s}/ cannot hold a file of this name"),  # type: ignore[misc]
            )  # fmt: skip
    for name in spool.names(PENDING):
        if name.endswith(SUFFIX) and not is_ignored(name) and spool.is_directory(name):
            yield Finding("stranger", spool.dir(PENDING) + name, "a directory is no job", "")
        elif not name.startswith(".") and not name.endswith((SUFFIX, *UNFINISHED)):
            yield Finding("stranger", spool.dir(PENDING) + name, "workers take only names that end in .json", "")


def _has_its_file(spool: Spool, name: str) -> bool:
    return name.endswith(".rejected.reason") and spool.exists(DEAD, name.removesuffix(".reason"))


def _ids(spool: Spool, _: float) -> Iterator[Finding]:
    names = spool.names(IDS)
    there = spool.find_all(names)
    for job_id in names:
        if job_id not in there and spool.is_abandoned(job_id):
            yield Finding("id", spool.dir(IDS) + job_id, "reserved, but there is no job of that id", "free it",
                          lambda job_id=job_id: spool.free_abandoned(job_id))  # type: ignore[misc]


def _logs(spool: Spool, stale_after: float) -> Iterator[Finding]:
    names = spool.names(LOGS)
    known = {entry.id for entry in spool.entries(STATES)}
    unknown = {name: job_id for name in names
               if (job_id := name.removesuffix(".log").rpartition(".")[0]) and job_id not in known}  # fmt: skip
    there = spool.find_all(unknown.values())
    for name, job_id in unknown.items():
        if job_id in there:
            continue
        empty = spool.log_size(name) == 0
        yield Finding(
            "log", spool.dir(LOGS) + name, f"there is no job {job_id} any more", "remove it" if empty else "",
            (lambda name=name: spool.remove_log(name)) if empty else None,  # type: ignore[misc]
        )  # fmt: skip
