"""What the search of the protocol finds: nothing wrong in it, and what is wrong in each protocol that is broken.

`pytest -s` shows how many states were searched. QUEUECTL_MODEL=full searches more, for a quarter of an hour.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from . import broken
from .protocol import Protocol
from .search import Found, Search, canonical, opened, without_past
from .world import Rules

# In all of them workers crash at any step, any number of times. Unless `lies` is false, answers may be wrong, and the
# looks after them. `late=1`: a request may be under way, to be executed at any later time, or twice.
SEARCHES = {
    "two workers who take each other for dead": Rules(late=1),
    "three workers who take each other for dead": Rules(workers=3, attempts=1),
    "records are swept meanwhile": Rules(attempts=1, late=1, lies=False, sweeps=True),
    "dead jobs are requeued meanwhile": Rules(attempts=1, late=1, lies=False, requeues=True),
    "cancel, requeue and sweep together": Rules(cancels=True, requeues=True, sweeps=True),
    "two workers on one host": Rules(suspicion="dead", attempts=1, late=1),
    "three workers on one host": Rules(suspicion="dead", workers=3),
    "workers on two hosts, who fence themselves": Rules(suspicion="fenced", lies=False),
}
LONGER = {
    "three workers and a late request": Rules(workers=3, late=1),
    "two late requests": Rules(late=2),
    "three workers and a sweep": Rules(workers=3, sweeps=True),
    "all at once": Rules(late=1, cancels=True, requeues=True, sweeps=True),
    "all at once on one host": Rules(suspicion="dead", attempts=1, late=1, cancels=True, requeues=True, sweeps=True),
    "three workers who fence themselves": Rules(suspicion="fenced", workers=3, lies=False),
    "two who fence themselves, and a late request": Rules(suspicion="fenced", attempts=1, late=1),
}


@cache
def searched(rules: Rules) -> tuple[Search, Found]:
    search = Search(Protocol(rules))
    found = search.run()
    print(found)
    return search, found


@pytest.mark.parametrize("rules", SEARCHES.values(), ids=SEARCHES.keys())
def test_no_order_of_events_loses_doubles_or_overlaps_the_job(rules: Rules) -> None:
    _, found = searched(rules)
    assert not found.wrong, str(found)
    assert found.states > 3000  # else the model stands still somewhere


@pytest.mark.skipif(os.environ.get("QUEUECTL_MODEL") != "full", reason="takes 15 minutes: QUEUECTL_MODEL=full")
@pytest.mark.parametrize("rules", LONGER.values(), ids=LONGER.keys())
def test_nor_does_any_in_a_longer_search(rules: Rules) -> None:
    found = Search(Protocol(rules)).run()
    print(found)
    assert not found.wrong, str(found)


LOST = "after recovery the job is in 0 places"
DOUBLED = "after recovery the job is in 2 places"
OVERLAP = "two processes of one job run at once"
BROKEN = [
    (broken.SharedClaimName(Rules(suspicion="dead")), "an attempt is started twice"),
    (broken.RenameOverTheClaim(Rules()), DOUBLED),
    (broken.TakeTheRecord(Rules()), LOST),
    (broken.TrustEnoent(Rules(suspicion="dead")), "a claim stands of which nobody knows"),
    (broken.NoFence(Rules()), DOUBLED),
    (broken.SameNotBefore(Rules(late=1)), "one who had lost his claim has it again"),
    (broken.DropTheRecord(Rules()), LOST),
    (broken.GiveBackUnderTheSameName(Rules()), "one spent claim has two records"),
    (broken.BelieveThatItIsPublished(Rules()), LOST),
    (broken.OneListing(Rules()), LOST),
    (broken.AnyRecord(Rules(suspicion="dead", late=1, lies=False)), "a job that had ended runs again"),
    (broken.SweepIgnoresSpent(Rules(sweeps=True)), "a record is swept that is needed"),
    (broken.SweepLooksTooEarly(Rules(sweeps=True)), "a record is swept that is needed"),
    (
        broken.RequeueTrustsTheName(Rules(attempts=1, late=1, lies=False, requeues=True)),
        "a dead job comes back unasked",
    ),
    (broken.SameIdentity(Rules(suspicion="fenced", lies=False)), OVERLAP),
    (broken.StartUnchecked(Rules(suspicion="fenced", lies=False)), OVERLAP),
    (broken.NoOrphanHunt(Rules(suspicion="dead")), OVERLAP),
]


@pytest.mark.parametrize(("protocol", "wrong"), BROKEN, ids=[type(protocol).__name__ for protocol, _ in BROKEN])
def test_a_protocol_that_is_broken_in_one_point_is_found_out(protocol: Protocol, wrong: str) -> None:
    found = Search(protocol).run()
    print(found)
    assert found.wrong == wrong, str(found)


@pytest.mark.parametrize(
    "name",
    [
        "two workers who take each other for dead",
        "dead jobs are requeued meanwhile",
        "workers on two hosts, who fence themselves",
    ],
)
def test_what_the_search_forgets_makes_no_difference(name: str) -> None:
    """The nearest states, with nothing forgotten: none is wrong, and the search that forgets knows each of them."""
    everything = Search(Protocol(SEARCHES[name]), forget=False)
    assert not everything.run(limit=3000).wrong
    known = searched(SEARCHES[name])[0].seen
    for key in everything.seen:
        assert canonical(without_past(opened(key), Protocol.returning)) in known
