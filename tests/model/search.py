"""Breadth-first search through every state that the protocol can reach, and the judgement of each state.

Owns what must always hold (`wrong_with`), and when two states are the same (`canonical`). Knows the names of
world.py, and none of the steps.

The search is finite though crashes, suspicions and returns are not limited, because states are compared up to:
which worker is which; the numbers of claims and the instants, of which only the order counts; and the past. Past is a
claim of a stem that has been settled, when neither it nor its unpublished record stands and no late request can make
it: all that its worker can still do is to fail at a rename. `test_what_the_search_forgets...` checks that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Set
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from .protocol import Protocol
from .world import COMPLETED, DEAD, IDLE, Claim, Files, Label, Name, Request, Rules, State, Worker, stem

Key: TypeAlias = tuple[frozenset[tuple[Name, int]], tuple[Worker, ...], tuple[Request, ...]]

RESTING = ("waiting", "completed", "dead")


class Found(NamedTuple):
    """What a search found. `wrong` is empty if nothing was; then `states` is all there are, or the limit."""

    protocol: Protocol
    states: int
    steps: int
    seconds: float
    wrong: str
    trace: list[str]

    def __str__(self) -> str:
        rules = self.protocol.rules._asdict().items()
        asked = ", ".join(f"{name}={value}" for name, value in rules if value != Rules._field_defaults[name])
        head = f"{type(self.protocol).__name__}({asked}): {self.states} states, {self.steps} steps"
        head += f", {self.seconds:.1f} s"
        return "\n".join([head, *([f"VIOLATED: {self.wrong}", *self.trace] if self.wrong else [])])


class Search:
    """One search. `seen` maps each state, in canonical form, to the one that it was first reached from.

    `forget`: whether states are the same that differ only in what is past.
    """

    def __init__(self, protocol: Protocol, forget: bool = True) -> None:
        self.protocol = protocol
        self.forget = forget
        self.seen: dict[Key, Key | None] = {}
        self.judge = Judge(protocol)

    def run(self, limit: int | None = None) -> Found:
        """Visit every state, nearest first, until one is wrong, or `limit` states have been seen."""
        began = perf_counter()
        first = self.canonical(self.protocol.first())
        self.seen[first] = None
        queue, steps, wrong = deque([first]), 0, ""
        while queue and not wrong and (limit is None or len(self.seen) < limit):
            key = queue.popleft()
            for _, state in self.protocol.steps(opened(key)):
                steps += 1
                if (frozenset(state.files.items()), state.workers, state.late) in self.seen:
                    continue  # in canonical form as it is, and known
                after = self.canonical(state)
                if after not in self.seen:
                    self.seen[after] = key
                    queue.append(after)
                    if wrong := self.judge.wrong_with(state):
                        break
        trace = self._trace(after) if wrong else []
        return Found(self.protocol, len(self.seen), steps, perf_counter() - began, wrong, trace)

    def canonical(self, s: State) -> Key:
        return canonical(without_past(s, self.protocol.returning) if self.forget else s)

    def _trace(self, last: Key) -> list[str]:
        """The way to `last`, walked again with names as they are, not as `canonical` renumbers them."""
        way: list[Key] = []
        at: Key | None = last
        while at is not None:
            way.append(at)
            at = self.seen[at]
        state, lines = self.protocol.first(), []
        for before, key in zip(way[:0:-1], way[-2::-1], strict=True):
            # Two workers who are at the same point may have changed places in `key`: then go on from there.
            ways = (step for begin in (state, opened(before)) for step in self.protocol.steps(begin))
            label, state = next(step for step in ways if self.canonical(step[1]) == key)
            lines.append(f"  {said(label)}")
        return [*lines, "  and then there are: " + (", ".join(spelled(name) for name in state.files) or "no files")]


class Judge:
    """Says what is wrong with a state. Remembers which files it has seen recovered."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.recovery = Protocol(Rules(workers=1, crashes=False, lies=False, runs=False))
        self.recovered: dict[frozenset[tuple[Name, int]], str] = {}

    def wrong_with(self, s: State) -> str:
        """Why this state must not be; empty if it may."""
        jobs = processes = 0
        for name in s.files:
            kind, c, more = name
            if kind in RESTING or kind == "claim":
                jobs += 1
            elif kind == "spent":
                records = sum(1 for n in s.files if n[0] == "record" and n[1] == c)
                if records > 1:
                    return "one spent claim has two records"
                jobs += records
            elif kind == "process":
                processes += 1
            elif kind == "wrong":
                return str(more)
            if c is not None and kind in ("claim", "spent") and not self._will_end(s, c):
                return "a claim stands of which nobody knows"
        if processes > 1:
            return "two processes of one job run at once"
        return self._recover(s) or ("" if jobs == 1 else f"the job is in {jobs} places")

    def _will_end(self, s: State, claim: Claim) -> bool:
        if any(c == claim for _, c, _ in s.workers):
            return True
        return any(self.protocol.may_take(s, w, claim) for w in range(len(s.workers)))

    def _recover(self, s: State) -> str:
        """Everybody dies, and one new worker recovers: the job must be in one place, at rest."""
        for w in range(len(s.workers)):
            s = self.protocol.crash(s, w)
        left = {name: v for name, v in s.files.items() if name[0] in (*RESTING, "claim", "spent", "record")}
        key = canonical(State(left, (), ()))[0]
        if key not in self.recovered:
            s = State(dict(key), (IDLE,), ())
            while step := next(self.recovery.steps(s), None):
                s = step[1]
            resting = [name for name in s.files if name[0] in RESTING]
            claims = [name for name in s.files if name[0] in ("claim", "spent")]
            fine = len(resting) == 1 and not claims
            self.recovered[key] = "" if fine else f"after recovery the job is in {len(resting + claims)} places"
        return self.recovered[key]


# -- when two states are the same ---------------------------------------------------------------------------------


def opened(key: Key) -> State:
    return State(dict(key[0]), key[1], key[2])


def canonical(s: State) -> Key:
    """The state, in a form that is the same for states that differ in names alone."""
    files, workers, late = s
    ranks: list[tuple[object, ...]] = [(position, stem(c), repr(more)) for position, c, more in workers]
    if len(set(ranks)) < len(ranks):
        ranks = [(*rank, _belongings(s, w)) for w, rank in enumerate(ranks)]
    order = sorted(range(len(workers)), key=ranks.__getitem__)
    slot = {w: i for i, w in enumerate(order)}
    claims: set[Claim] = set()
    instants = {*files.values(), *(version for _, _, version in late if version is not None)}
    for _, c, more in (*files, *workers, *(name for request in late for name in request[:2] if name)):
        if c is not None:
            claims.add(c)
            instants.add(c[0])
            if more.__class__ is tuple and more[2] is not None:
                instants.add(more[2][0])
        elif more.__class__ is tuple:
            instants.add(more[0])
    rank: dict[int | None, Any] = {t: i for i, t in enumerate(sorted(instants))}
    rank[None] = None
    new: dict[Claim | None, Claim | None] = {None: None}
    counts: dict[int, int] = {}
    for owner, c in sorted([(slot.get(c[2], c[2]), c) for c in claims]):
        counts[owner] = number = counts.get(owner, 0) + 1
        new[c] = (rank[c[0]], c[1], owner, number)

    def renamed(name: Name) -> Name:
        kind, c, more = name
        if more.__class__ is tuple:
            if c is None:
                more = (rank[more[0]], more[1])
            elif more[2] is not None:
                more = (more[0], None, (rank[more[2][0]], more[2][1]))
        elif kind == "fenced":
            more = slot[more]
        return kind, new[c], more

    return (
        frozenset([(renamed(name), rank[version]) for name, version in files.items()]),
        tuple([renamed(workers[w]) for w in order]),
        tuple(sorted([(a and renamed(a), renamed(b), rank[version]) for a, b, version in late], key=repr)),
    )


def _belongings(s: State, w: int) -> list[str]:
    """What tells a worker from another that does the same. If nothing does, they may stand in either order."""
    lists: list[Iterable[Name | None]] = [s.files, *(request[:2] for request in s.late)]
    names = [(i, name) for i, some in enumerate(lists) for name in some if name]
    return sorted(
        f"{i} {kind} {c and (stem(c), more)}"
        for i, (kind, c, more) in names
        if (kind == "fenced" and more == w) or (c is not None and c[2] == w)
    )


def without_past(s: State, returning: Set[str]) -> State:
    """The state without what can have no effect any more: what belongs to past claims; marks of claims that nothing
    stands for; requests whose source is gone for good; whose a record was, once nobody has that claim; and, beside a
    record that says how the attempt ended, those that nobody would choose."""
    files, workers, late = s
    if late:
        late = tuple(q for q in late if q[0] is None or q[0] in files or q[0][0] in returning)
    standing: set[Claim | None] = {name[1] for request in late for name in request[:2] if name}
    spent, recorded, now = set(), set(), 0
    for (kind, c, _), version in files.items():
        if kind in ("claim", "process"):
            standing.add(c)
        elif kind == "record":
            recorded.add(c)
        elif c is not None and kind == "spent":
            spent.add(c)
            now = max(now, c[0])
        if kind == "claim" or kind in RESTING:
            now = max(now, version)
    standing |= spent & recorded

    def past(c: Claim | None) -> bool:
        return c is not None and c[0] < now and c not in standing

    workers = tuple([IDLE if past(worker[1]) else worker for worker in workers])
    known = standing | {c for c in spent if not past(c)} | {c for _, c, _ in workers}
    kept: Files = {}
    ended = set()
    for (kind, c, more), version in files.items():
        if c is None:
            if kind != "ended" or more[0] >= now:
                kept[kind, c, more] = version
        elif c in known:
            kept[kind, c, more] = version
        elif kind == "record" and not past(c):
            kept[kind, (c[0], c[1], DEAD, 0), more] = version
            if more == COMPLETED:
                ended.add(stem(c))
    if ended:
        for name in [n for n in kept if n[0] == "record" and n[2] != COMPLETED and n[1] not in known]:
            if stem(name[1]) in ended:
                del kept[name]
    return State(kept, workers, late)


# -- how a trace is told --------------------------------------------------------------------------------------------


def said(label: Label) -> str:
    who, what, *rest = label
    names = " -> ".join(spelled(name) for name in rest if isinstance(name, tuple))
    remarks = [remark for remark in rest if isinstance(remark, str)]
    return ", ".join([f"{'a request' if who is None else f'worker {who}'} {what} {names}".rstrip(), *remarks])


def spelled(name: Name) -> str:
    """A name much as it would stand in the spool, without priority and id."""
    kind, c, more = name
    if kind == "waiting":
        return f"waiting/{more[0]}.a{more[1]}"
    if kind in RESTING:
        return f"{kind}/job"
    if c is None:
        return f"[{kind} {more}]"
    claim = f"{c[0]}.a{c[1]}@{'dead' if c[2] == DEAD else f'w{c[2]}'}.{c[3]}"
    if kind == "claim":
        return f"processing/{claim}"
    if kind in ("spent", "record"):
        return f".tmp/{claim}={spelled(more) if more else 'spent'}"
    return f"[{kind} {claim}]"
