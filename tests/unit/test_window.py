"""The window against a model that holds everything: what it gives is the best that there is, and it stays small."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from queuectl.core.times import SECOND, stamp
from queuectl.core.window import PATIENCE, Share, Window


class Item(NamedTuple):
    id: str
    priority: int
    not_before: str
    needs: str = ""

    @property
    def name(self) -> str:
        return f"{self.not_before}.p{self.priority}.a0.{self.id}.json"


def item(number: int, priority: int = 0, when: int = 0, needs: str = "") -> Item:
    return Item(f"job{number}", priority, stamp(when * SECOND), needs)


def same(workers: int) -> list[frozenset[str]]:
    """So many workers without labels."""
    return [frozenset()] * workers


items = st.builds(item, st.integers(0, 10**6), st.integers(-2, 2), st.integers(0, 20))
NOW = stamp(10 * SECOND)


def drain(window: Window) -> list[Item]:
    out = []
    while (found := window.pop()) is not None:
        assert isinstance(found, Item)
        out.append(found)
    return out


@given(st.lists(items, unique_by=lambda i: i.name))
def test_what_is_due_comes_by_priority_and_then_by_age(given: list[Item]) -> None:
    window = Window()
    for one in given:
        window.offer(one, NOW)
    due = [one for one in given if one.not_before <= NOW]
    assert drain(window) == sorted(due, key=lambda one: (-one.priority, one.not_before, one.name))


@given(st.lists(items, unique_by=lambda i: i.name), st.integers(10, 25))
def test_what_is_for_later_comes_when_its_time_has_come(given: list[Item], later: int) -> None:
    window = Window()
    for one in given:
        window.offer(one, NOW)
    drain(window)
    window.ripen(stamp(later * SECOND))
    ripe = [one for one in given if NOW < one.not_before <= stamp(later * SECOND)]
    assert set(drain(window)) == set(ripe)
    rest = sorted(one.not_before for one in given if one.not_before > max(NOW, stamp(later * SECOND)))
    assert window.next_due() == (rest[0] if rest else None)


@given(st.lists(items, unique_by=lambda i: i.name, max_size=60), st.integers(1, 5))
def test_a_bounded_window_gives_the_best_of_all_and_says_when_it_must_look_again(given: list[Item], size: int) -> None:
    """With a scan whenever it is starved, nothing is forgotten for ever, and the order is that of all names."""
    window = Window(size)
    left = {one for one in given if one.not_before <= NOW}
    for one in given:
        window.offer(one, NOW)
    assert len(window) <= 2 * size
    taken = []
    while left:
        if window.starved(NOW):
            window.clear()
            for one in sorted(left):
                window.offer(one, NOW)
        found = window.pop()
        assert isinstance(found, Item), f"{len(left)} are left, but the window is empty and not starved"
        taken.append(found)
        left.discard(found)
    assert taken == sorted(taken, key=lambda one: (-one.priority, one.not_before, one.name))


@given(st.lists(items, unique_by=lambda i: i.name, min_size=5, max_size=80), st.integers(1, 4))
def test_what_is_for_later_and_was_forgotten_is_asked_for_again(given: list[Item], size: int) -> None:
    window = Window(size)
    start = stamp(0)
    waiting = {one for one in given if one.not_before > start}
    for one in waiting:
        window.offer(one, start)
    for second in range(1, 22):
        now = stamp(second * SECOND)
        window.ripen(now)
        due = {one for one in waiting if one.not_before <= now}
        while due:
            if window.starved(now):
                window.clear()
                for one in waiting:
                    window.offer(one, now)
            found = window.pop()
            assert found in due
            due.discard(found)
            waiting.discard(found)
        if waiting:
            assert (window.next_due() or "") <= min(one.not_before for one in waiting)


def test_a_name_that_was_taken_is_not_brought_back_by_a_late_hint() -> None:
    window = Window()
    window.offer(item(1), NOW)
    assert window.pop() == item(1)
    window.offer(item(1), NOW)
    assert window.pop() is None


def test_a_scan_may_bring_a_name_back() -> None:
    window = Window()
    window.offer(item(1), NOW)
    window.pop()
    window.clear()
    window.offer(item(1), NOW)
    assert window.pop() == item(1)


def test_a_million_names_cost_no_more_than_the_window() -> None:
    window = Window(50)
    for number in range(20_000):
        window.offer(item(number, when=number % 20), NOW)
    assert len(window) <= 100
    assert len(window._known) <= 400
    for number in range(20_000, 40_000):
        window.offer(item(number, priority=5), NOW)
        window.pop()
    assert len(window._known) <= 8 * 50 + 1, "what was taken is remembered, but not for ever"


@given(st.lists(items, unique_by=lambda i: i.name, min_size=1), st.integers(0, 10))
def test_looking_ahead_after_a_lost_race_never_skips_to_a_worse_priority(given: list[Item], ahead: int) -> None:
    window = Window()
    due = [one._replace(not_before=stamp(0)) for one in given]
    due = list({one.name: one for one in due}.values())
    for one in due:
        window.offer(one, NOW)
    found = window.pop(ahead)
    assert found is not None
    assert found.priority == max(one.priority for one in due)
    assert {*drain(window), found} == set(due), "what was skipped is still there"


# -- shares -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.text("abcdefgh0123", min_size=1, max_size=20))
def test_every_job_belongs_to_exactly_one_share(workers: int, job_id: str) -> None:
    assert sum(Share(place, workers).holds(job_id) for place in range(workers)) == 1


@pytest.mark.parametrize("workers", [2, 3, 10])
def test_shares_are_about_equal(workers: int) -> None:
    held = [sum(Share(place, workers).holds(f"job{n}") for n in range(3000)) for place in range(workers)]
    assert min(held) > 0.8 * 3000 / workers


def test_a_worker_tries_its_own_share_first_but_never_before_a_higher_priority() -> None:
    window = Window()
    window.divide(0, same(2))
    jobs = [item(n, priority=n % 2) for n in range(20)]
    for one in jobs:
        window.offer(one, NOW)
    share = Share(0, 2)
    order = [(one.priority, share.holds(one.id)) for one in drain(window)]
    assert order == sorted(order, reverse=True)


@given(st.integers(2, 20), st.text("abcdefgh0123", min_size=1, max_size=20))
def test_every_job_has_exactly_one_helper_who_is_not_its_owner(workers: int, job_id: str) -> None:
    shares = [Share(place, workers) for place in range(workers)]
    (helper,) = [share for share in shares if share.helps(job_id)]
    assert not helper.holds(job_id)


@pytest.mark.parametrize(("helps", "looks"), [(True, PATIENCE), (False, 2 * PATIENCE)])
def test_what_its_owner_leaves_lying_is_taken_over_by_one_other_and_later_by_anybody(helps: bool, looks: int) -> None:
    """An owner that is only a little behind takes it itself: to try it would be a lost race for one of the two."""
    share = Share(0, 3)
    window = Window()
    window.divide(0, same(3))
    numbers = [n for n in range(100) if share.holds(f"job{n}")]
    mine = [item(n, when=2 + place) for place, n in enumerate(numbers[: looks + 1])]
    other = next(
        item(n, when=1) for n in range(100) if not share.holds(f"job{n}") and share.helps(f"job{n}") == helps
    )
    first = []
    for newest in range(looks + 1):
        window.clear()
        for one in (other, *mine[newest:]):
            window.offer(one, NOW)
        first.append(window.pop())
    assert first == [*mine[:looks], other], "a job that is older than what this worker has reached waits no longer"


def test_among_jobs_of_others_the_worker_chooses_by_chance() -> None:
    """Else all who have nothing of their own would try the same one."""
    window = Window()
    window.divide(0, same(3))
    mine = next(item(n) for n in range(100) if Share(0, 3).holds(f"job{n}"))
    share = Share(0, 3)
    anothers = [n for n in range(100) if not share.holds(f"job{n}")]
    window.offer(next(item(n) for n in anothers if not share.helps(f"job{n}")), NOW)
    assert window.spread() == 3
    window.clear()
    window.offer(next(item(n) for n in anothers if share.helps(f"job{n}")), NOW)
    assert window.spread() == 1
    window.offer(mine, NOW)
    assert window.spread() == 1
    assert Window().spread() == 1


def test_dividing_says_whether_anything_changed() -> None:
    window = Window()
    said = [window.divide(place, same(workers)) for place, workers in ((0, 1), (0, 2), (0, 2), (1, 2))]
    assert said == [False, True, False, True]


# -- labels -----------------------------------------------------------------------------------------------------------

GPU, PLAIN = frozenset({"gpu"}), frozenset[str]()


def test_what_it_may_not_take_is_not_known_and_starves_nothing() -> None:
    window = Window(3)
    for number in range(100):
        window.offer(item(number, needs="gpu"), NOW)
        window.offer(item(100 + number, when=20, needs="gpu+ssd"), NOW)
    assert (len(window), window.starved(stamp(30 * SECOND)), window.next_due()) == (0, False, None)
    window.offer(item(1000), NOW)
    assert drain(window) == [item(1000)]
    assert not window.starved(NOW), "a scan for names that it may not take would never end"


def test_who_has_more_labels_than_are_needed_takes_it_too() -> None:
    window = Window(labels=frozenset({"gpu", "ssd"}))
    given = [item(1), item(2, needs="gpu"), item(3, needs="gpu+ssd"), item(4, needs="gpu+tape")]
    for one in given:
        window.offer(one, NOW)
    assert drain(window) == given[:3]


def test_jobs_with_needs_are_shared_among_those_who_have_the_labels() -> None:
    workers = [PLAIN, GPU, PLAIN, GPU]
    firsts = []
    for place in (1, 3):
        window = Window(labels=GPU)
        window.divide(place, workers)
        for number in range(40):
            window.offer(item(number, needs="gpu"), NOW)
        firsts.append({one.id for one in drain(window)[:12]})
    assert not firsts[0] & firsts[1]
    alone = Window(labels=GPU)
    alone.divide(1, [PLAIN, GPU, PLAIN])
    for number in range(40):
        alone.offer(item(number, needs="gpu"), NOW)
    assert drain(alone) == sorted((item(n, needs="gpu") for n in range(40)), key=lambda one: one.name)


# -- any sequence of calls --------------------------------------------------------------------------------------------


class AnySequence(RuleBasedStateMachine):
    """Whatever is done in whatever order: it stays bounded, gives only what is due, and nothing twice."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 3
        self.window = Window(self.size)
        self.now = 0
        self.spool: set[Item] = set()
        self.number = 0

    @rule(priority=st.integers(-1, 1), ahead=st.integers(-5, 5))
    def a_job_arrives(self, priority: int, ahead: int) -> None:
        self.number += 1
        new = item(self.number, priority, max(0, self.now + ahead))
        self.spool.add(new)
        self.window.offer(new, stamp(self.now * SECOND))

    @rule()
    def a_scan(self) -> None:
        self.window.clear()
        for one in self.spool:
            self.window.offer(one, stamp(self.now * SECOND))

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.window.ripen(stamp(self.now * SECOND))

    @rule(place=st.integers(0, 1))
    def the_share_changes(self, place: int) -> None:
        self.window.divide(place, same(2))

    @precondition(lambda self: len(self.window) > 0)
    @rule(ahead=st.integers(0, 3))
    def one_is_taken(self, ahead: int) -> None:
        found = self.window.pop(ahead)
        assert found in self.spool
        assert found.not_before <= stamp(self.now * SECOND)
        self.spool.discard(found)

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.window) <= 2 * self.size
        assert len(self.window._later) <= 2 * self.size

    @invariant()
    def nothing_due_is_out_of_sight(self) -> None:
        now = stamp(self.now * SECOND)
        due = [one for one in self.spool if one.not_before <= now]
        assert not due or len(self.window) or self.window.starved(now)


TestAnySequence = AnySequence.TestCase
