"""The world of the model: what there is, and how it is written down.

A file is a name (kind, claim, more) with a version, which its content remembers (of a job that rests: the least
not_before that was not used yet):

    ("waiting", None, (t, a))    pending/ or failed/: t is not_before, a the attempts so far
    ("claim", c, None)           processing/: c is (t, a, owner, n); t and a are its stem
    ("record", c, target)        .tmp/: complete, on its way to the name `target`
    ("spent", c, None)           .tmp/: c has passed the fence
    ("completed", None, None)    the job has ended; so with "dead"

Beside them stands what is true without being a file: ("process", c, None) the job runs under c, ("started", c, None)
it did, ("ended", None, stem) its success was on record while its claim stood, ("fenced", None, w) w has fenced itself,
("wrong", None, why) what must not happen has happened.

A worker is (position in protocol.PROGRAM, the claim that it is about, what it wants with it). A crash makes of it a
new worker that remembers nothing; what it had belongs to DEAD from then on. `cancel` and `dlq retry` are workers too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

Claim: TypeAlias = tuple[int, int, int, int]
Name: TypeAlias = tuple[str, Claim | None, Any]
Files: TypeAlias = dict[Name, int]
Worker: TypeAlias = tuple[str, Claim | None, Any]
Request: TypeAlias = tuple[Name | None, Name, int | None]  # source, target; or None, target, the new file's version
Program: TypeAlias = Mapping[str, tuple[str, str]]
Label: TypeAlias = tuple[Any, ...]  # who (None: a request), what, and the names and remarks that belong to it

DEAD = 9  # the owner of what dead workers had
IDLE: Worker = ("idle", None, None)
COMPLETED: Name = ("completed", None, None)
BURIED: Name = ("dead", None, None)
HOLDING = ("held", "running", "write", "fence", "fence?")  # positions of one who believes that his claim stands


class State(NamedTuple):
    """Everything: the files, the workers, and the renames that were asked for and may still be executed."""

    files: Files
    workers: tuple[Worker, ...]
    late: tuple[Request, ...]


Steps: TypeAlias = Iterator[tuple[Label, State]]


class Rules(NamedTuple):
    """What is searched.

    `suspicion`: whom a worker may take for dead: "any" other, so also one that is only paused; only the "dead" (one
    host, where the kernel knows); or the dead and the self-"fenced" (several hosts). `late`: how many requests at once
    may be under way with no answer, or be repeated later. `lies`: an answer, or a look after it, may be wrong.
    """

    workers: int = 2
    attempts: int = 2
    suspicion: str = "any"
    late: int = 0
    crashes: bool = True
    lies: bool = True
    runs: bool = True
    cancels: bool = False
    requeues: bool = False
    sweeps: bool = False


def waiting(not_before: int, attempts: int) -> Name:
    return ("waiting", None, (not_before, attempts))


def stem(c: Claim | None) -> tuple[int, ...]:
    return c[:2] if c else ()


def claim_of(s: State, w: int) -> Claim:
    c = s.workers[w][1]
    assert c is not None
    return c


def go(s: State, w: int, worker: Worker, files: Files | None = None) -> State:
    """Worker w is at another position, and perhaps the files are others."""
    workers = (*s.workers[:w], worker, *s.workers[w + 1 :])
    return State(s.files if files is None else files, workers, s.late)


def without(files: Files, name: Name) -> Files:
    return {n: version for n, version in files.items() if n != name}


def moved(files: Files, source: Name, target: Name) -> Files:
    after = without(files, source)
    after[target] = files[source]
    if source[0] == "record" and target[0] == "waiting" and ("ended", None, stem(source[1])) in files:
        after[("wrong", None, "a job that had ended runs again")] = 0
    return after


def claims_in(s: State) -> Iterator[Claim]:
    """Every claim that anything mentions: a new one is unlike all of them."""
    for name in (*s.files, *s.workers, *(name for request in s.late for name in request[:2] if name)):
        if name[1] is not None:
            yield name[1]


def has_left_something(s: State, w: int) -> bool:
    return any(name == ("fenced", None, w) or (name[1] is not None and name[1][2] == w) for name in s.files)
