"""The file names of the spool: what they say, and how they are made and read.

    pending/            <any>.json              what somebody has dropped
                        <any>.<token>=taken.json
                                                the same, once a worker has moved it to a name that nobody else gives
    pending/, failed/   <not_before>.p<priority>.a<attempts>[.n<needs>].<id>.json
    processing/         <not_before>.p<priority>.a<attempts>[.n<needs>].<id>@<worker>.<n>.json
    completed/, dead/   <id>.json
    .tmp/               <claim>=completed.json, <claim>=dead.json, <claim>=failed.<not_before>.a<attempts>.json,
                        <claim>=pending.<not_before>.a<attempts>.json
                                                a settled record, complete, on its way to that state
                        <claim>=spent           a claim that has passed the fence

where <claim> is a name of processing/ without its ".json", and <needs> are the labels that the job asks of a worker,
sorted, with "+" between them: a worker must know from the name alone what it has to leave alone. Ids have no dot, so
the part is there or isn't, and names without it read as they always did. Pure text: nothing here knows whether a file
exists. A name that is none of these gives None; a name that is made from wrong parts is our own bug (AssertionError).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import NamedTuple

from queuectl.core.states import TERMINAL
from queuectl.core.times import STAMP_LENGTH

SUFFIX = ".json"
LOWEST_PRIORITY, HIGHEST_PRIORITY = -999, 999
LONGEST_ID = 100
LONGEST_WORKER = 40
LONGEST_LABEL = 32
LONGEST_NEEDS = 64  # of all labels of one job together, with a "+" between them
# Both stand in a record's name, whose other parts take up to 139 of the 255 bytes that a name may have.
LONGEST_ID_WITH_NEEDS = 114

_ID = r"(?!-)[A-Za-z0-9_-]{1,100}"
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}"
# Only what is made is read, letter for letter: ASCII digits (\d takes those of all scripts), no needless zeros. A claim
# may count one attempt more than the most that a waiting name says.
_STAMP, _PRIORITY, _ATTEMPTS = r"(\d{8}T\d{6}\.\d{6}Z)", r"p(0|-?[1-9]\d{0,2})", r"a(0|[1-9]\d{0,5})"
_NEEDS = rf"(?:\.n({_LABEL}(?:\+{_LABEL})*))?"
_WAITING = rf"{_STAMP}\.{_PRIORITY}\.{_ATTEMPTS}{_NEEDS}\.({_ID})\.json"
_CLAIM = (
    rf"{_STAMP}\.{_PRIORITY}\.a(0|[1-9]\d{{0,5}}|1000000){_NEEDS}\.({_ID})"
    r"@([A-Za-z0-9-]{1,40})\.(0|[1-9]\d{0,11})\.json"
)
_TARGET = rf"(pending|failed)\.{_STAMP}\.{_ATTEMPTS}"
_TAKEN = r"((?s:.*))\.[0-9a-hjkmnp-tv-z]{10}=taken\.json"  # no job's name has a "="
UNFINISHED = (".tmp", ".part", ".swp", "~")  # ends of the names of files that editors and copiers have not finished


@cache
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Compiled when it is first used: to compile all of them costs `enqueue`, which needs none, a fortieth."""
    return re.compile(pattern, re.ASCII).fullmatch


class Waiting(NamedTuple):
    """A name of pending/ or failed/. `not_before` is a stamp; `attempts` counts the attempts started so far; `needs` is
    the text of `needs_of`."""

    not_before: str
    priority: int
    attempts: int
    id: str
    needs: str = ""

    @property
    def name(self) -> str:
        return f"{self.not_before}.p{self.priority}.a{self.attempts}{_part(self.needs)}.{self.id}{SUFFIX}"

    def claimed_by(self, worker: str, n: int) -> Claim:
        """The name under which `worker` runs this job as its n-th claim: one attempt more than before."""
        return Claim(self.not_before, self.priority, self.attempts + 1, self.id, worker, n, self.needs)


class _Claim(NamedTuple):
    not_before: str
    priority: int
    attempts: int
    id: str
    worker: str
    n: int
    needs: str = ""


class Claim(_Claim):
    """A name of processing/. `worker` and `n` make it unlike every other name that ever was or will be (R4)."""

    @property
    def stem(self) -> str:
        """What all claims of one attempt share, whoever holds it: a record is found by it."""
        return f"{self.not_before}.p{self.priority}.a{self.attempts}{_part(self.needs)}.{self.id}"

    @cached_property
    def key(self) -> str:
        """The whole name without its suffix, made once: a job's way asks for it a dozen times. Also what a job sees as
        QUEUECTL_CLAIM."""
        return f"{self.stem}@{self.worker}.{self.n}"

    @property
    def name(self) -> str:
        return self.key + SUFFIX

    @property
    def spent(self) -> str:
        """Its name in .tmp/ once the fence is passed."""
        return f"{self.key}=spent"

    def taken_over_by(self, worker: str, n: int) -> Claim:
        """The same attempt in another's hands: the attempt was counted when it began."""
        return self._replace(worker=worker, n=n)


class Record(NamedTuple):
    """A settled record's name in .tmp/: the claim that it settles, and where it goes.

    `not_before` (a stamp) and `attempts` (the count that the job keeps) are for pending and failed only.
    """

    claim: Claim
    state: str
    not_before: str = ""
    attempts: int = 0

    @property
    def name(self) -> str:
        if self.state in TERMINAL:
            return f"{self.claim.key}={self.state}{SUFFIX}"
        return f"{self.claim.key}={self.state}.{self.not_before}.a{self.attempts}{SUFFIX}"

    @property
    def target(self) -> str:
        """The job's name in its new state."""
        if self.state in TERMINAL:
            return self.claim.id + SUFFIX
        return Waiting(self.not_before, self.claim.priority, self.attempts, self.claim.id, self.claim.needs).name


def is_id(text: str) -> bool:
    """Whether `text` may be a job's id. A leading dash is refused: it would be read as an option."""
    return _matcher(_ID)(text) is not None


def is_label(text: str) -> bool:
    """Whether `text` may be a worker's label. A leading dash is refused, as for an id."""
    return _matcher(_LABEL)(text) is not None


def needs_of(labels: Iterable[str]) -> str:
    """Labels as a name says them: one text for one set of them, "" for none."""
    return "+".join(sorted(set(labels)))


def is_met(needs: str, labels: frozenset[str]) -> bool:
    """Whether a worker with these labels may take a job whose name says `needs`."""
    return not needs or labels.issuperset(needs.split("+"))


def is_ignored(name: str) -> bool:
    """Whether a name in pending/ is none of queuectl's business: hidden, unfinished, or not JSON."""
    return name.startswith(".") or name.endswith(UNFINISHED) or not name.endswith(SUFFIX)


def taken_name(name: str, token: str) -> str:
    """The name under which a dropped file is adopted: nobody drops another one there meanwhile. `token` is 10 letters
    and digits, unlike all others."""
    stem = name.removesuffix(SUFFIX).encode("utf-8", "surrogateescape")[:200].decode("utf-8", "surrogateescape")
    return f"{stem}.{token}=taken{SUFFIX}"


def is_taken(name: str) -> bool:
    """Whether it is a name that `taken_name` gives."""
    return name.endswith("=taken.json") and _matcher(_TAKEN)(name) is not None


def dropped_name(name: str) -> str:
    """The name under which a foreign file was dropped, whether it has been taken or not."""
    found = _matcher(_TAKEN)(name) if is_taken(name) else None
    return f"{found[1]}{SUFFIX}" if found else name


def parse_waiting(name: str) -> Waiting | None:
    """Read a name of pending/ or failed/; None for a foreign name."""
    found = _matcher(_WAITING)(name)
    if found is None:
        return None
    not_before, priority, attempts, needs, job_id = found.groups("")
    if not _is_stamp(not_before) or (needs and not _is_needs(needs, job_id)):
        return None
    return Waiting(not_before, int(priority), int(attempts), job_id, needs)


def parse_claim(name: str) -> Claim | None:
    """Read a name of processing/; None if it is none."""
    found = _matcher(_CLAIM)(name)
    if found is None:
        return None
    not_before, priority, attempts, needs, job_id, worker, n = found.groups("")
    if not _is_stamp(not_before) or (needs and not _is_needs(needs, job_id)):
        return None
    return Claim(not_before, int(priority), int(attempts), job_id, worker, int(n), needs)


def parse_record(name: str) -> Record | None:
    """Read the name of a settled record in .tmp/; None if it is none."""
    key, equals, target = name.removesuffix(SUFFIX).partition("=")
    claim = parse_claim(key + SUFFIX)
    if claim is None or not equals or not name.endswith(SUFFIX):
        return None
    if target in TERMINAL:
        return Record(claim, target)
    found = _matcher(_TARGET)(target)
    if found is None or not _is_stamp(found[2]):
        return None
    return Record(claim, found[1], found[2], int(found[3]))


def parse_spent(name: str) -> Claim | None:
    """Read the name of a spent claim in .tmp/; None if it is none."""
    return parse_claim(name.removesuffix("=spent") + SUFFIX) if name.endswith("=spent") else None


def parse_terminal(name: str) -> str | None:
    """The id in a name of completed/ or dead/; None if it is none (`.rejected`, a stranger's file)."""
    job_id = name.removesuffix(SUFFIX)
    return job_id if name.endswith(SUFFIX) and is_id(job_id) else None


def is_worker(text: str) -> bool:
    """Whether `text` may be a worker's id."""
    return re.fullmatch(r"[A-Za-z0-9-]{1,40}", text) is not None


def _part(needs: str) -> str:
    return f".n{needs}" if needs else ""


def _is_needs(needs: str, job_id: str) -> bool:
    """Whether it is the text that `needs_of` makes, and leaves room for the job's longest name."""
    fits = len(needs) <= LONGEST_NEEDS and len(needs) + len(job_id) <= LONGEST_ID_WITH_NEEDS
    return fits and needs == needs_of(needs.split("+"))


def _is_stamp(text: str) -> bool:
    """Whether the digits could be a time. Month, day and hour are checked so that every stamp can be read back."""
    if len(text) != STAMP_LENGTH:
        return False
    month, day, hour, minute, second = text[4:6], text[6:8], text[9:11], text[11:13], text[13:15]
    if not ("01" <= month <= "12" and "01" <= day <= "28" and hour <= "23" and minute <= "59" and second <= "59"):
        from queuectl.core.times import unstamp

        try:
            unstamp(text)
        except ValueError:
            return False
    return text[:4] >= "1970"
