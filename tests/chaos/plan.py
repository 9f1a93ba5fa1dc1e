"""The decisions of a run, all drawn from one seed: what is enqueued how and when, and what is done to whom."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

KINDS = {  # how a job behaves (job.sh), and how often
    "quick": 30, "slow": 12, "permanent": 3, "later": 3, "hang": 3, "stubborn": 1, "frozen": 2, "fork": 6, "setsid": 6,
    "daemon": 4, "chatter": 4, "flood": 2, "filler": 1, "suicide": 3, "killer": 3,
}  # fmt: skip
ACTIONS = {  # what happens to workers and their surroundings, and how often
    "kill": 10, "freeze": 6, "terminate": 3, "stop now": 2, "start": 3, "kill all": 1, "move away": 3, "remove": 1,
    "fill": 2, "clock": 4, "pause": 6,
}  # fmt: skip
DOORS = {"cli": 3, "api": 6, "drop": 5, "killed cli": 1}
MOVED = ("pending", "failed", "completed", "dead", "workers")


class Planned(NamedTuple):
    at: float  # seconds from the beginning
    door: str
    kind: str
    failures: int
    members: dict[str, Any]


class Action(NamedTuple):
    at: float
    what: str
    whom: float  # which worker: a place from 0 to 1 in the list of those that live then
    lasts: float  # seconds
    directory: str


class Plan:
    def __init__(self, seed: int, seconds: float, jobs: int, workers: int, hosts: int = 1) -> None:
        rng = random.Random(seed)
        self.seed, self.seconds, self.hosts = seed, seconds, hosts
        self.slots = [rng.randint(1, 4) for _ in range(workers)]
        self.durability = rng.choice(("fsync", "none"))
        self.jobs = sorted((self._job(rng, number) for number in range(jobs)), key=lambda job: job.at)
        self.actions: list[Action] = []
        at = 0.5
        while at < seconds - 1:
            what = _draw(rng, ACTIONS)
            lasts = min(rng.expovariate(1.5), 3.0)
            self.actions.append(Action(at, what, rng.random(), lasts, rng.choice(MOVED)))
            at += rng.expovariate(2.0) + 0.05

    def _job(self, rng: random.Random, number: int) -> Planned:
        kind, door = _draw(rng, KINDS), _draw(rng, DOORS)
        failures = rng.choice((0, 1, 1, 2, 3))
        members: dict[str, Any] = {"max_retries": 40, "timeout": 20}
        if rng.random() < 0.1:
            members["max_retries"] = 1
        if kind in ("hang", "stubborn", "frozen"):
            members["timeout"], failures = 0.5, 1
        if rng.random() < 0.4:
            members["priority"] = rng.randint(-5, 5)
        if rng.random() < 0.3:
            members["id"] = f"own-{number}"
        return Planned(rng.random() * self.seconds * 0.8, door, kind, failures, members)


def _draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
