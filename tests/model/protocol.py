"""The protocol of claim, settle, recover and sweep as a machine of small steps, for search.py to try in every order.

One job, a few workers, a few attempts. Owns what each worker may do next and what the world may do to it; never judges
a state (that is search.py). Read it beside queuectl/docs/internals.md: world.py for the names, then PROGRAM, then the
methods in the order of a job's life. Every change of a file is one step, every look at the spool is one step, and
between any two steps anything may happen: a paused worker is one that takes no step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from .world import (
    BURIED,
    COMPLETED,
    DEAD,
    HOLDING,
    IDLE,
    Claim,
    Files,
    Name,
    Program,
    Rules,
    State,
    Steps,
    Worker,
    claim_of,
    claims_in,
    go,
    has_left_something,
    moved,
    stem,
    waiting,
    without,
)

# Position: the method, and what a worker does there. "?" is a look at the spool.
PROGRAM: Program = {
    "idle": ("idle", "claim, cancel, requeue; or recover a claim, finish a spent claim, or think of sweeping a record"),
    "take": ("take", "its owner is dead, and what he left running: rename the claim to one of its own"),
    "claim?": ("look_for_claim", "does its own claim stand? It is its own. If not, somebody else was first"),
    "held": ("held", "start the job; or, if it recovers, look for records of the stem, and decide"),
    "running": ("running", "the attempt ends, or is stopped"),
    "write": ("write", "settle 1: the record appears in .tmp/, complete"),
    "fence": ("fence", "settle 2: rename the claim to spent"),
    "fence?": ("look_for_spent", "is it spent, or does it still stand? If neither, the lease was lost"),
    "publish": ("publish", "settle 3: rename the record to its target; one's own, or that of a spent claim found"),
    "publish?": ("look_for_record", "is the record still there? If not, it was published"),
    "clean": ("clean", "settle 4: remove the spent claim"),
    "sweep claim?": ("look_for_claims", "having seen the record: does a claim of its stem stand?"),
    "sweep spent?": ("look_for_spents", "then: a spent claim of its stem?"),
    "sweep": ("sweep", "neither: remove the record"),
}


class Protocol:
    """All that can happen next."""

    program: ClassVar[Program] = PROGRAM
    returning = frozenset({"dead"})  # kinds of names that come back, so that a repeated request may find them again

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        # If one who is only paused may be taken for dead, attempts overlap, and no rule forbids it.
        self.processes = rules.suspicion != "any"

    def first(self) -> State:
        return State({waiting(0, 0): 0}, (IDLE,) * self.rules.workers, ())

    def steps(self, s: State) -> Steps:
        """Every step that somebody, or the world, can take in this state."""
        for w, (position, _, _) in enumerate(s.workers):
            yield from getattr(self, self.program[position][0])(s, w)
            if self.rules.crashes and (position != "idle" or has_left_something(s, w)):
                yield (w, "dies"), self.crash(s, w)
            if self.rules.suspicion == "fenced":
                yield from self.fence_itself(s, w)
        for i, (source, target, version) in enumerate(s.late):
            rest = s.late[:i] + s.late[i + 1 :]
            yield (None, "is never executed:", source, target), s._replace(late=rest)
            if version is not None:
                yield (None, "is executed late:", target), s._replace(files={**s.files, target: version}, late=rest)
            elif source in s.files and (source != BURIED or all(target[1] != c for _, c, _ in s.workers)):
                # Who was frozen while his requeue was repeated looks at his lease before he goes on.
                files = moved(s.files, source, target)
                if target[0] == "claim" and any(c == target[1] and at in HOLDING for at, c, _ in s.workers):
                    files[("wrong", None, "one who had lost his claim has it again")] = 0
                yield (None, "is executed late:", source, target), s._replace(files=files, late=rest)

    # -- what the world does ------------------------------------------------------------------------------------

    def crash(self, s: State, w: int) -> State:
        """Worker w is a new one; what it had is left to whoever finds it."""
        last = max((c[3] for c in claims_in(s) if c[2] == DEAD), default=0)
        host = self.rules.suspicion == "fenced"  # there, what dies is a host with all that runs on it

        def orphan(name: Name) -> Name:
            kind, c, more = name
            return (kind, (c[0], c[1], DEAD, c[3] + last), more) if c and c[2] == w else name

        files = {
            orphan(name): version
            for name, version in s.files.items()
            if name != ("fenced", None, w) and not (host and name[0] == "process" and name[1] and name[1][2] == w)
        }
        workers = tuple(IDLE if i == w else orphan(worker) for i, worker in enumerate(s.workers))
        return State(files, workers, tuple((a and orphan(a), orphan(b), version) for a, b, version in s.late))

    def fence_itself(self, s: State, w: int) -> Steps:
        """It couldn't renew its lease for half of stale-after: it kills its jobs, and starts none under this name.
        It goes on under a new name, as after a crash."""
        if ("fenced", None, w) not in s.files:
            files = {n: v for n, v in s.files.items() if not (n[0] == "process" and n[1] and n[1][2] == w)}
            yield (w, "fences itself"), s._replace(files={**files, ("fenced", None, w): 0})

    def rename(self, s: State, w: int, source: Name, target: Name, done: Worker, enoent: Worker) -> Steps:
        """One rename, with every answer that a network file system may give."""
        if source not in s.files:
            yield (w, "renames", source, target, "ENOENT"), go(s, w, enoent)
            return
        files = moved(s.files, source, target)
        yield (w, "renames", source, target), go(s, w, done, files)
        if self.rules.lies:
            yield (w, "renames", source, target, "but is told ENOENT"), go(s, w, enoent, files)
            if target[0] != "claim":
                yield (w, "is told ENOENT, though it is there, for", source), go(s, w, enoent)
        if len(s.late) < self.rules.late:
            late = (*s.late, (source, target, None))
            yield (w, "gets no answer:", source, target), go(s, w, enoent)._replace(late=late)
            if source[0] in self.returning:
                yield (w, "renames", source, target, "to be repeated"), go(s, w, done, files)._replace(late=late)

    # -- claim --------------------------------------------------------------------------------------------------

    def idle(self, s: State, w: int) -> Steps:
        if ("fenced", None, w) in s.files:
            return
        rules = self.rules
        # Sweeps change nothing that sweeps look at, so one at a time shows all that they can do.
        sweeps = rules.sweeps and not any(position.startswith("sweep") for position, _, _ in s.workers)
        for name, version in s.files.items():
            kind, c, more = name
            if kind == "waiting":
                if rules.runs:
                    yield from self.claim(s, w, name, (more[0], more[1] + 1), "run")
                if rules.cancels:
                    yield from self.claim(s, w, name, more, "cancel")
            elif kind == "dead" and rules.requeues:
                yield from self.claim(s, w, name, (version, 0), "requeue")
            elif c is None or not self.may_take(s, w, c):
                continue
            elif kind == "claim":
                yield from self.suspect(s, w, c)
            elif kind == "spent":
                found = [n[2] for n in s.files if n[0] == "record" and n[1] == c]
                for target in found:
                    yield (w, "finds unpublished", name), go(s, w, ("publish", c, target))
                if not found:
                    yield (w, "finds published", name), go(s, w, ("clean", c, None))
            elif kind == "record" and sweeps:
                yield (w, "thinks of sweeping", name), go(s, w, ("sweep claim?", c, more))

    def may_take(self, s: State, w: int, c: Claim) -> bool:
        """Whether idle worker w may see to this claim: its owner is dead or taken for dead, or is w itself, which,
        being idle, knows nothing of it."""
        if c[2] in (w, DEAD) or self.rules.suspicion == "any":
            return True
        return self.rules.suspicion == "fenced" and ("fenced", None, c[2]) in s.files

    def claim(self, s: State, w: int, source: Name, stem: tuple[int, int], how: str) -> Steps:
        mine = self.new_claim(s, w, stem)
        yield from self.rename(s, w, source, ("claim", mine, None), ("held", mine, how), ("claim?", mine, how))

    def new_claim(self, s: State, w: int, stem: tuple[int, int]) -> Claim:
        return (*stem, w, 1 + max((c[3] for c in claims_in(s) if c[2] == w), default=0))

    def look_for_claim(self, s: State, w: int) -> Steps:
        _, c, how = s.workers[w]
        stands = ("claim", c, None) in s.files
        if stands:
            yield (w, "finds its claim"), go(s, w, ("held", c, how))
        if not stands or self.rules.lies:
            yield (w, "sees no claim of its own"), go(s, w, IDLE)

    def suspect(self, s: State, w: int, c: Claim) -> Steps:
        if self.processes:
            files = self.kill_orphans(s.files, c)
            yield (w, "takes for dead the owner of", ("claim", c, None)), go(s, w, ("take", c, None), files)
        else:
            yield from self.claim(s, w, ("claim", c, None), c[:2], "recover")

    def kill_orphans(self, files: Files, c: Claim) -> Files:
        return without(files, ("process", c, None)) if self.rules.suspicion == "dead" else files

    def take(self, s: State, w: int) -> Steps:
        c = claim_of(s, w)
        yield from self.claim(s, w, ("claim", c, None), c[:2], "recover")

    # -- run, or recover ----------------------------------------------------------------------------------------

    def held(self, s: State, w: int) -> Steps:
        c, how = claim_of(s, w), s.workers[w][2]
        if how == "recover":
            yield from self.decide(s, w, c)
        elif how == "cancel":
            yield from self.record(s, w, c, [BURIED])
        elif how == "requeue":
            yield from self.record(s, w, c, [waiting(self.later(s, c), 0)])
        elif not self.processes:
            yield from self.running(s, w)
        elif self.may_start(s, w):
            files = {**s.files, ("started", c, None): 0, ("process", c, None): 0}
            if ("started", c, None) in s.files:
                files[("wrong", None, "an attempt is started twice")] = 0
            yield (w, "starts the job"), go(s, w, ("running", c, how), files)
        else:
            yield from self.record(s, w, c, [waiting(self.later(s, c), c[1] - 1)])

    def may_start(self, s: State, w: int) -> bool:
        return ("fenced", None, w) not in s.files

    def running(self, s: State, w: int) -> Steps:
        c = claim_of(s, w)
        yield from self.record(s, w, c, [COMPLETED, self.failed(s, c), waiting(self.later(s, c), c[1] - 1)])

    def decide(self, s: State, w: int, c: Claim) -> Steps:
        found = {name[2] for name in s.files if name[0] == "record" and stem(name[1]) == stem(c)}
        if self.was_repeated(s, c):
            yield (w, "sees that a late request has moved a dead job"), go(s, w, ("write", c, BURIED))
            return
        for target in self.best(found):
            yield (w, "finds a record that says", target), go(s, w, ("write", c, target))
        if not found:
            yield (w, "finds no record, so it was lost"), go(s, w, ("write", c, self.failed(s, c)))

    def was_repeated(self, s: State, c: Claim) -> bool:
        """Whether the content is younger than the claim's name: only a requeue that is repeated makes that."""
        return s.files.get(("claim", c, None), 0) > c[0]

    def best(self, targets: set[Name]) -> set[Name]:
        """Of the records found, one that says how the attempt ended comes before those that say lost."""
        return {COMPLETED} if COMPLETED in targets else targets

    def later(self, s: State, c: Claim) -> int:
        """A not_before greater than the claim's, and than all that its content remembers."""
        return max(c[0], s.files.get(("claim", c, None), 0)) + 1

    def failed(self, s: State, c: Claim) -> Name:
        return waiting(self.later(s, c), c[1]) if c[1] < self.rules.attempts else BURIED

    # -- settle -------------------------------------------------------------------------------------------------

    after_record = "fence"

    def write(self, s: State, w: int) -> Steps:
        yield from self.record(s, w, claim_of(s, w), [s.workers[w][2]])

    def record(self, s: State, w: int, c: Claim, targets: Iterable[Name]) -> Steps:
        """Settle 1, for each outcome that there may be. The process has ended by then."""
        standing = s.files.get(("claim", c, None))
        version = max(c[0], standing or 0) + 1
        rest = without(s.files, ("process", c, None))
        for target in targets:
            name = ("record", c, target)
            files = {**rest, name: target[2][0] if target[2] else version}
            if self.processes and target == COMPLETED and standing is not None:
                files[("ended", None, stem(c))] = 0
            if target[0] == "waiting" and standing is not None and standing > c[0]:
                files[("wrong", None, "a dead job comes back unasked")] = 0
            yield (w, "writes", name), go(s, w, (self.after_record, c, target), files)
            if len(s.late) < self.rules.late:
                asked = State(rest, s.workers, (*s.late, (None, name, files[name])))
                yield (w, "asks for the record, and dies:", name), self.crash(asked, w)

    def fence(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        passed = ("publish", c, target)
        yield from self.rename(s, w, ("claim", c, None), ("spent", c, None), passed, ("fence?", c, target))

    def look_for_spent(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        if ("spent", c, None) in s.files:
            yield (w, "has passed the fence"), go(s, w, ("publish", c, target))
        elif ("claim", c, None) in s.files:
            yield (w, "still has its claim"), go(s, w, ("fence", c, target))
        if self.rules.lies or not {("spent", c, None), ("claim", c, None)} & s.files.keys():
            files = self.refused(s.files, ("record", c, target))
            yield (w, "sees neither, so the lease was lost"), go(s, w, IDLE, files)

    def refused(self, files: Files, record: Name) -> Files:
        return files  # whoever took over may be reading the record; it is swept in the end

    def publish(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        yield from self.rename(s, w, ("record", c, target), target, ("clean", c, None), ("publish?", c, target))

    def look_for_record(self, s: State, w: int) -> Steps:
        """This look must not be wrong: a listing, not a question for one name, which a cache may answer."""
        _, c, target = s.workers[w]
        if ("record", c, target) in s.files:
            yield (w, "sees that it isn't published"), go(s, w, ("publish", c, target))
        else:
            yield (w, "sees that it is published"), go(s, w, ("clean", c, None))

    cleans = "spent"

    def clean(self, s: State, w: int) -> Steps:
        name = (self.cleans, claim_of(s, w), None)
        yield (w, "removes", name), go(s, w, IDLE, without(s.files, name))

    # -- sweep --------------------------------------------------------------------------------------------------

    def look_for_claims(self, s: State, w: int) -> Steps:
        yield from self.unless_there("claim", s, w, "sweep spent?")

    def look_for_spents(self, s: State, w: int) -> Steps:
        yield from self.unless_there("spent", s, w, "sweep")

    def unless_there(self, kind: str, s: State, w: int, position: str) -> Steps:
        _, c, target = s.workers[w]
        if any(name[0] == kind and stem(name[1]) == stem(c) for name in s.files):
            yield (w, f"sees a {kind}, so the record is needed"), go(s, w, IDLE)
        else:
            yield (w, f"sees no {kind}"), go(s, w, (position, c, target))

    def sweep(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        files = without(s.files, ("record", c, target))
        if len(files) < len(s.files) and any(n[0] in ("claim", "spent") and stem(n[1]) == stem(c) for n in files):
            files[("wrong", None, "a record is swept that is needed")] = 0
        yield (w, "sweeps", ("record", c, target)), go(s, w, IDLE, files)
