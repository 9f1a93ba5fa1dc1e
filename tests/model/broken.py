"""Protocols that are wrong, each in one point. The search must find that out, so that we know that it would.

Each class is the right protocol with the least change that breaks it; its docstring says what somebody might think
would do. Some of these were in queuectl once, or in its design.
"""

from __future__ import annotations

from typing import ClassVar

from .protocol import PROGRAM, Protocol
from .world import DEAD, IDLE, Claim, Files, Name, Program, State, Steps, claim_of, go, stem, waiting, without

NOBODY = 8  # the owner in claims that don't say who has them


class SharedClaimName(Protocol):
    """A claim's name needs neither its worker nor a number: only one can win the rename."""

    def new_claim(self, s: State, w: int, stem: tuple[int, int]) -> Claim:
        return (*stem, NOBODY, 0)

    def may_take(self, s: State, w: int, c: Claim) -> bool:
        return all(c != held for _, held, _ in s.workers)

    def idle(self, s: State, w: int) -> Steps:
        yield from super().idle(s, w)
        for kind, c, _ in s.files:
            if kind == "claim":
                yield (w, "is told ENOENT for a job that it saw waiting"), go(s, w, ("claim?", c, "run"))


class RenameOverTheClaim(Protocol):
    """The new content is renamed over the claim, then the claim to its destination: the job is never in .tmp/."""

    program: ClassVar[Program] = {**PROGRAM, "over": ("over", "over the claim"), "leave": ("leave", "away")}
    after_record = "over"

    def over(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        after = ("leave", c, target)
        yield from self.rename(s, w, ("record", c, target), ("claim", c, None), after, after)

    def leave(self, s: State, w: int) -> Steps:
        _, c, target = s.workers[w]
        yield from self.rename(s, w, ("claim", c, None), target, IDLE, IDLE)


class TakeTheRecord(Protocol):
    """A recoverer renames the record that it finds: cheaper than a copy."""

    def decide(self, s: State, w: int, c: Claim) -> Steps:
        found = [name for name in s.files if name[0] == "record" and stem(name[1]) == stem(c)]
        for name in found:
            mine = ("record", c, name[2])
            yield from self.rename(s, w, name, mine, ("fence", c, name[2]), ("held", c, "recover"))
        if not found:
            yield from super().decide(s, w, c)


class TrustEnoent(Protocol):
    """ENOENT says that another has the job. No need to look for one's target, or to compare claims with those known."""

    def look_for_claim(self, s: State, w: int) -> Steps:
        yield (w, "believes it"), go(s, w, IDLE)

    def may_take(self, s: State, w: int, c: Claim) -> bool:
        return c[2] == DEAD


class NoFence(Protocol):
    """The record is published, then the claim removed: one rename less."""

    after_record = "publish"
    cleans = "claim"


class SameNotBefore(Protocol):
    """A job that is given back keeps its place in the queue, so its not_before."""

    returning = frozenset({"dead", "waiting"})

    def later(self, s: State, c: Claim) -> int:
        return c[0]


class DropTheRecord(Protocol):
    """Who finds neither his claim nor his spent claim removes his record: the lease was lost."""

    def refused(self, files: Files, record: Name) -> Files:
        return without(files, record)


class GiveBackUnderTheSameName(Protocol):
    """A worker that finds a claim of its own that it doesn't know settles it as if it had just been made."""

    def suspect(self, s: State, w: int, c: Claim) -> Steps:
        if c[2] == w:
            yield (w, "gives back", ("claim", c, None)), go(s, w, ("write", c, waiting(self.later(s, c), c[1] - 1)))
        else:
            yield from super().suspect(s, w, c)


class BelieveThatItIsPublished(Protocol):
    """ENOENT for the record says that a recoverer has published it."""

    def look_for_record(self, s: State, w: int) -> Steps:
        yield (w, "believes that it is published"), go(s, w, ("clean", claim_of(s, w), None))


class OneListing(Protocol):
    """One listing of .tmp/ shows the spent claims and their records. But it isn't atomic: it may have passed the
    record's place before the record was there, and come to the spent claim's place after."""

    program: ClassVar[Program] = {**PROGRAM, "listed": ("listed", "the listing goes on")}

    def suspect(self, s: State, w: int, c: Claim) -> Steps:
        yield from super().suspect(s, w, c)
        if not any(name[0] == "record" and name[1] == c for name in s.files):
            yield (w, "lists .tmp/, no record yet of", ("claim", c, None)), go(s, w, ("listed", c, None))

    def listed(self, s: State, w: int) -> Steps:
        c = claim_of(s, w)
        if ("spent", c, None) in s.files:
            yield (w, "sees it spent, so published"), go(s, w, ("clean", c, None))
        else:
            yield (w, "sees no more"), go(s, w, IDLE)


class AnyRecord(Protocol):
    """All records of a stem are as good: the first will do."""

    def best(self, targets: set[Name]) -> set[Name]:
        return targets


class SweepIgnoresSpent(Protocol):
    """A record whose stem has no claim is of no use to anybody."""

    def look_for_claims(self, s: State, w: int) -> Steps:
        yield from self.unless_there("claim", s, w, "sweep")


class SweepLooksTooEarly(Protocol):
    """First a listing of processing/, then one of .tmp/ for both records and spent claims: as a job goes."""

    program: ClassVar[Program] = {**PROGRAM, "sweep .tmp/?": ("look_into_tmp", "a record with no spent claim?")}

    def idle(self, s: State, w: int) -> Steps:
        for label, after in super().idle(s, w):
            if after.workers[w][0] != "sweep claim?":
                yield label, after
        if not any(name[0] == "claim" for name in s.files):
            yield (w, "sees no claim"), go(s, w, ("sweep .tmp/?", None, None))

    def look_into_tmp(self, s: State, w: int) -> Steps:
        yield (w, "sees no record"), go(s, w, IDLE)
        for kind, c, target in s.files:
            if kind == "record" and not any(n[0] == "spent" and stem(n[1]) == stem(c) for n in s.files):
                yield (w, "sees no spent claim for", (kind, c, target)), go(s, w, ("sweep", c, target))


class RequeueTrustsTheName(Protocol):
    """A claim on a job that was dead is recovered like any other: requeued."""

    def was_repeated(self, s: State, c: Claim) -> bool:
        return False


class SameIdentity(Protocol):
    """A worker that has fenced itself goes on as before when its lease can be renewed again."""

    def fence_itself(self, s: State, w: int) -> Steps:
        yield from super().fence_itself(s, w)
        if ("fenced", None, w) in s.files:
            yield (w, "is well again"), s._replace(files=without(s.files, ("fenced", None, w)))


class StartUnchecked(Protocol):
    """What was claimed in good time may be started."""

    def may_start(self, s: State, w: int) -> bool:
        return True


class NoOrphanHunt(Protocol):
    """When a worker dies, its jobs will die too."""

    def kill_orphans(self, files: Files, c: Claim) -> Files:
        return files


