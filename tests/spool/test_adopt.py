"""Adoption: any file that ends in .json in pending/ becomes a job, once, with what its content asks for. It is long
because all that may happen to a dropped file should be found in one place."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from queuectl import actions
from queuectl.core.names import dropped_name, is_taken, parse_waiting, taken_name
from queuectl.errors import BadJob, IdTaken
from queuectl.lease import ROLE_CLI, Lease
from queuectl.spool import Spool, entry_of
from tests.spool.faults import Fs
from tests.support import adopt_all, at_once, body_of, drop, leftovers, listing, only, places, python, run_once

NOW = 1_795_338_930_123_456_000  # 2026-11-22T09:15:30.123456Z
STAMP = "20261122T091530.123456Z"


def adopt(spool: Spool, name: str, content: bytes | str | dict[str, Any] | None = None) -> str:
    """Drop a file and adopt it; the canonical name."""
    drop(spool, name, {"command": "true"} if content is None else content)
    entry = spool.adopt(name, NOW)
    assert entry is not None
    assert listing(spool, "pending") == [entry.name]
    assert entry == entry_of("pending", entry.name)
    return entry.name


@pytest.mark.parametrize(
    "name",
    ["job.json", "my job (2).json", "Übung.json", "x.tmp.json", "-rf.json", "a\nb.json", "'.json", "x" * 250 + ".json",
     f"{STAMP}.p0.a0.job", "20261399T000000.000000Z.p0.a0.x.json", "completed.json", "\u202ered.json"],
)  # fmt: skip
def test_a_file_of_any_name_becomes_a_job(spool: Spool, name: str) -> None:
    if not name.endswith(".json"):
        name += ".json.json"
    assert parse_waiting(adopt(spool, name)) is not None


def test_a_name_that_is_no_utf8_becomes_a_job_too(spool: Spool) -> None:
    drop(spool, b"\xff\xfe.json", {"command": "true"})
    (name,) = spool.names("pending")
    assert spool.adopt(name, NOW) is not None
    assert parse_waiting(listing(spool, "pending")[0]) is not None


def test_a_plain_file_name_becomes_part_of_the_id_so_that_people_find_their_job(spool: Spool) -> None:
    assert adopt(spool, "nightly_backup-2.json").endswith("-nightly_backup-2.json")


@pytest.mark.parametrize("name", ["a b.json", "é.json", "x" * 61 + ".json"])
def test_another_file_name_has_no_say_in_the_id(spool: Spool, name: str) -> None:
    waiting = parse_waiting(adopt(spool, name))
    assert waiting is not None
    assert len(waiting.id) == 18


@pytest.mark.parametrize(
    ("members", "start"),
    [
        ({}, f"{STAMP}.p0.a0."),
        ({"priority": 7}, f"{STAMP}.p7.a0."),
        ({"priority": -7}, f"{STAMP}.p-7.a0."),
        ({"run_at": "2099-01-01T00:00:00Z"}, "20990101T000000.000000Z.p0.a0."),
        ({"runAt": "2001-01-01T00:00:00+01:00", "priority": 1}, "20001231T230000.000000Z.p1.a0."),
        ({"attempts": 2, "state": "failed"}, f"{STAMP}.p0.a0."),
    ],
)
def test_what_the_content_asks_for_takes_effect(spool: Spool, members: dict[str, Any], start: str) -> None:
    assert adopt(spool, "x.json", {"command": "true", **members}).startswith(start)


def test_an_id_in_the_content_is_the_jobs_id_and_is_reserved(spool: Spool) -> None:
    assert adopt(spool, "x.json", {"command": "true", "job_id": "job1"}) == f"{STAMP}.p0.a0.job1.json"
    assert listing(spool, ".ids") == ["job1"]
    with pytest.raises(IdTaken):
        spool.enqueue("true", id="job1")


def test_the_bytes_are_not_touched_by_adoption(spool: Spool) -> None:
    content = b'{ "command":\t"true",\n "x": 1e3 }\n'
    name = adopt(spool, "x.json", content)
    assert Path(spool.dir("pending") + name).read_bytes() == content


def test_an_id_that_exists_is_refused_and_the_file_is_left(spool: Spool) -> None:
    spool.enqueue("true", id="job1")
    drop(spool, "x.json", {"command": "true", "id": "job1"})
    with pytest.raises(IdTaken) as caught:
        spool.adopt("x.json", NOW)
    assert spool.reject("pending", caught.value.file, "why") == "x.json.rejected", "under its own name"


def test_of_two_files_with_one_id_the_first_is_adopted(spool: Spool) -> None:
    drop(spool, "a.json", {"command": "a", "id": "job1"})
    drop(spool, "b.json", {"command": "b", "id": "job1"})
    assert spool.adopt("a.json", NOW) is not None
    with pytest.raises(IdTaken):
        spool.adopt("b.json", NOW)


def test_a_file_dropped_again_under_the_same_name_is_another_job(spool: Spool) -> None:
    drop(spool, "x.json", {"command": "a", "id": "job1"})
    assert spool.adopt("x.json", NOW) is not None
    drop(spool, "x.json", {"command": "b", "id": "job1"})
    with pytest.raises(IdTaken):
        spool.adopt("x.json", NOW)


def test_a_file_that_is_gone_is_nothing(spool: Spool) -> None:
    assert spool.adopt("x.json", NOW) is None


def test_a_file_that_is_taken_away_while_it_is_adopted_is_nothing_and_its_id_is_free(tmp_path: Path) -> None:
    class Thief(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename":
                os.unlink(args[0])

    spool = Spool(tmp_path / "spool", durability="none")
    drop(spool, "x.json", {"command": "true", "id": "job1"})
    assert Spool(spool.root, durability="none", fs=Thief()).adopt("x.json", NOW) is None
    assert spool.enqueue("true", id="job1") == "job1"


def test_a_file_that_another_worker_adopts_meanwhile_is_nothing(spool: Spool) -> None:
    class Rival(Fs):
        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "symlink":
                assert adopt_all(spool)

    drop(spool, "x.json", {"command": "true", "id": "job1"})
    assert Spool(spool.root, durability="none", fs=Rival()).adopt("x.json", NOW) is None, "and no error: it lost a race"
    assert len(places(spool, "job1")) == 1


def test_an_adoption_that_died_after_it_had_reserved_the_id_is_gone_on_with(spool: Spool) -> None:
    drop(spool, "x.json", {"command": "true", "id": "job1"})
    spool._reserve("job1", spool._adoption("x.json"))
    assert spool.adopt("x.json", NOW) is not None


def test_another_file_under_that_name_is_adopted_too(spool: Spool) -> None:
    drop(spool, "x.json", {"command": "true", "id": "job1"})
    spool._reserve("job1", spool._adoption("x.json"))
    os.unlink(spool.dir("pending") + "x.json")
    drop(spool, "x.json", {"command": "something else", "id": "job1"})
    assert spool.adopt("x.json", NOW) is not None


@pytest.mark.parametrize("state", ["dead", "completed"])
def test_a_job_that_was_moved_back_by_hand_runs_again(spool: Spool, state: str) -> None:
    """README: `mv dead/ID.json pending/` runs a dead job again, with a fresh count of attempts."""
    spool.enqueue("true", id="job1", priority=4)
    with Lease(spool, ROLE_CLI) as lease:
        run_once(spool, lease, "job1", state)
    os.rename(spool.dir(state) + "job1.json", spool.dir("pending") + "job1.json")
    entry = spool.adopt("job1.json", NOW)
    assert entry is not None
    assert (entry.id, entry.priority, entry.attempts) == ("job1", 4, 0)
    assert [old["attempt"] for old in body_of(spool, "job1")["history"]] == [1]


def test_a_job_that_was_moved_back_by_hand_gets_a_name_that_it_never_had(spool: Spool) -> None:
    """R4. With its old name a worker would take it for one that it has had already, until the next slow scan."""
    run_at = "2020-01-01T00:00:00Z"
    drop(spool, "x.json", {"command": "true", "id": "job1", "run_at": run_at})
    first = spool.adopt("x.json", NOW)
    assert first is not None
    with Lease(spool, ROLE_CLI) as lease:
        run_once(spool, lease, "job1", "dead")
    os.rename(spool.dir("dead") + "job1.json", spool.dir("pending") + "job1.json")
    second = spool.adopt("job1.json", NOW)
    assert second is not None
    assert second.not_before > first.not_before


def test_a_copy_of_a_dead_job_is_refused_because_its_id_exists(spool: Spool) -> None:
    job_id = spool.enqueue("true")
    with Lease(spool, ROLE_CLI) as lease:
        run_once(spool, lease, job_id, "dead")
    drop(spool, "again.json", Path(spool.dir("dead") + f"{job_id}.json").read_bytes())
    with pytest.raises(IdTaken):
        spool.adopt("again.json", NOW)
    assert places(spool, job_id) == [f"dead/{job_id}.json"]


ADOPT = """
import sys, time
from queuectl import Spool
spool = Spool(sys.argv[1], durability="none")
input()
for name in sorted(spool.names("pending")):
    if name.startswith("drop"):
        spool.adopt(name, time.time_ns())
"""


def test_of_several_workers_that_adopt_the_same_files_each_file_becomes_one_job(spool: Spool) -> None:
    for n in range(80):
        drop(spool, f"drop{n}.json", {"command": "true", "id": f"job{n}"} if n % 2 else {"command": f"echo {n}"})
    at_once(ADOPT, [[spool.root]] * 3)
    names = listing(spool, "pending")
    assert len(names) == 80
    assert all(parse_waiting(name) for name in names)
    assert leftovers(spool) == []


# -- name and content disagree (row 75) ------------------------------------------------------------------------------


def test_for_the_state_the_name_counts_and_not_the_content(spool: Spool) -> None:
    drop(spool, f"{STAMP}.p5.a2.job1.json", {"command": "true", "priority": 1, "run_at": "2099-01-01T00:00:00Z",
                                             "attempts": 9, "state": "dead"})  # fmt: skip
    with Lease(spool, ROLE_CLI) as lease:
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        assert (claim.priority, claim.attempts, claim.not_before) == (5, 3, STAMP)
        job = spool.read_claim(claim)
        assert job is not None


def test_the_id_in_the_content_must_be_that_in_the_name(spool: Spool) -> None:
    drop(spool, f"{STAMP}.p0.a0.job1.json", {"command": "true", "id": "job2"})
    with Lease(spool, ROLE_CLI) as lease:
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        with pytest.raises(BadJob) as caught:
            spool.read_claim(claim)
    assert str(caught.value) == "id: the file's name says job1, its content job2; let both say the same"


def test_a_canonical_name_with_the_most_attempts_can_be_claimed_and_settled(spool: Spool) -> None:
    drop(spool, f"{STAMP}.p0.a999999.job1.json", {"command": "true"})
    with Lease(spool, ROLE_CLI) as lease:
        claim = spool.claim(only(spool), lease.worker, lease.next())
        assert claim is not None
        assert spool.claims() == [claim], "a claim that nobody can read would never be recovered"


def test_a_writer_that_appends_after_the_claim_changes_nothing_of_this_run_and_no_other_job(spool: Spool) -> None:
    """Row 78. The inode of a settled job is used again: not while somebody has it open."""
    with open(spool.dir("pending") + "slow.json", "w", encoding="utf-8") as writer, Lease(spool, ROLE_CLI) as lease:
        writer.write('{"command": "slow", "id": "slow"}')
        writer.flush()
        assert spool.adopt("slow.json", time.time_ns()) is not None
        spares: list[str] = []
        run_once(spool, lease, "slow", spares=spares)
        ids = [spool.enqueue(f"echo {'x' * 200}", id=f"job{n}") for n in range(2)]
        for job_id in ids:
            run_once(spool, lease, job_id, spares=spares)
        before = {job_id: body_of(spool, job_id) for job_id in ("slow", *ids)}
        writer.write("more and more " * 10)
        writer.flush()
        assert {job_id: body_of(spool, job_id) for job_id in ("slow", *ids)} == before


def test_the_inode_of_a_settled_job_is_used_again_when_nobody_has_it_open(spool: Spool) -> None:
    with Lease(spool, ROLE_CLI) as lease:
        spares: list[str] = []
        spool.enqueue("true", id="one")
        inode = os.stat(spool.path_of(only(spool))).st_ino
        run_once(spool, lease, "one", spares=spares)
        spool.enqueue("true", id="two")
        run_once(spool, lease, "two", spares=spares)
    assert os.stat(spool.dir("completed") + "two.json").st_ino == inode


# -- the next file under the same name --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["another worker", "its dropper"])
def test_a_file_that_takes_the_place_of_the_one_that_was_read_is_adopted_as_what_it_is(tmp_path: Path, by: str) -> None:
    """A program may drop the next job under its one name as soon as the last has gone; or replace it. It got the
    other's id, priority and time, and a recorded outcome was overwritten."""

    class Late(Fs):
        done = False

        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and not self.done:
                self.done = True
                if by == "another worker":
                    assert spool.adopt("x.json", NOW) is not None
                os.rename(drop(spool, "y", {"command": "second", "run_at": "2099-01-01T00:00:00Z", "priority": 7}),
                          spool.dir("pending") + "x.json")  # fmt: skip

    spool = Spool(tmp_path / "spool", durability="none")
    drop(spool, "x.json", {"command": "first", "id": "first"})
    entry = Spool(spool.root, durability="none", fs=Late()).adopt("x.json", NOW)
    assert entry is not None
    assert (entry.priority, entry.not_before[:4], entry.id[-2:]) == (7, "2099", "-x")
    assert body_of(spool, entry.id)["command"] == "second"
    found = sorted(one.id for one in spool.entries(["pending"]))
    assert found == sorted([entry.id] + ["first"] * (by == "another worker"))


def test_a_good_file_that_takes_the_place_of_a_bad_one_is_not_set_aside_for_it(tmp_path: Path) -> None:
    class Late(Fs):
        done = False

        def before(self, name: str, args: tuple[Any, ...]) -> None:
            if name == "rename" and not self.done:
                self.done = True
                os.unlink(spool.dir("pending") + "x.json")
                drop(spool, "x.json", {"command": "good"})

    spool = Spool(tmp_path / "spool", durability="none")
    drop(spool, "x.json", "bad")
    late = Spool(spool.root, durability="none", fs=Late())
    assert late.reject("pending", "x.json", "why", late.signature("x.json")) is None
    assert listing(spool, "dead") == []
    (entry,) = adopt_all(spool)
    assert body_of(spool, entry.id)["command"] == "good"


DROP = """
import json, os, sys
root, count = sys.argv[1:]
input()
for n in range(int(count)):
    body = {"command": f"echo {n}"}
    if n % 3 == 0:
        body["id"] = f"id{n}"
    if n % 3 == 1:
        body["run_at"] = "2099-01-01T00:00:00Z"
    with open(f"{root}/pending/.next", "w") as file:
        json.dump(body, file)
    while os.path.exists(f"{root}/pending/job.json"):
        pass
    os.rename(f"{root}/pending/.next", f"{root}/pending/job.json")
open(f"{root}/done", "w").close()
"""
ADOPT_ALL = """
import os, sys, time
from queuectl import Spool
spool = Spool(sys.argv[1], durability="none")
input()
while not os.path.exists(spool.root + "/done") or os.path.exists(spool.dir("pending") + "job.json"):
    spool.adopt("job.json", time.time_ns())
"""


def test_of_jobs_that_are_dropped_one_after_the_other_under_one_name_each_is_itself(spool: Spool) -> None:
    count = 600
    adopters = [python("print('ready', flush=True)\n" + ADOPT_ALL, spool.root) for _ in range(2)]
    dropper = python("print('ready', flush=True)\n" + DROP, spool.root, str(count))
    for process in (*adopters, dropper):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in (*adopters, dropper):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in (dropper, *adopters):
        assert process.communicate(timeout=60)[1] == ""
    adopt_all(spool)
    names = {name: json.loads(Path(spool.dir("pending"), name).read_bytes()) for name in listing(spool, "pending")}
    assert sorted(body["command"] for body in names.values()) == sorted(f"echo {n}" for n in range(count))
    for name, body in names.items():
        assert (name[:4] == "2099") == ("run_at" in body)
        assert name.endswith(f".{body.get('id', 'job')}.json") or body.get("id") is None
    assert listing(spool, "dead") == []


def test_a_job_that_is_adopted_while_it_is_looked_for_is_known(tmp_path: Path) -> None:
    class Adopting(Spool):
        """A worker adopts each dropped file step by step, whenever pending/ has been listed."""

        steps = 0

        def scan(self, directory: str) -> Any:
            names = list(super().scan(directory))
            if directory == "pending":
                self.steps += 1
                dropped = self.dir("pending") + "x.json"
                taken = self.dir("pending") + taken_name("x.json", "0123456789")
                if self.steps == 2:
                    os.rename(dropped, taken)
                elif self.steps == 3:
                    os.rename(taken, self.dir("pending") + f"{STAMP}.p0.a0.job1.json")
            return iter(names)

    for act in ("cancel", "wait"):
        spool = Adopting(tmp_path / act, durability="none")
        drop(spool, "x.json", {"command": "true", "id": "job1"})
        if act == "cancel":
            assert actions.cancel(spool, "job1") == "cancelled"
        else:
            assert actions.wait(spool, ["job1"], timeout=0.01) is None


@pytest.mark.parametrize(
    "name", ["x.json", f"{STAMP}.p0.a0.json", "a\nb.json", "\udcff.json", "y" * 250 + ".json", ".json"]
)
def test_a_taken_name_is_no_jobs_and_says_under_which_it_was_dropped(name: str) -> None:
    for token in ("0123456789", "nabcdefghj"):
        taken = taken_name(name, token)
        assert is_taken(taken)
        assert parse_waiting(taken) is None
        assert len(os.fsencode(taken)) < 255
        assert dropped_name(taken) == (name if len(name) < 200 else name[:200] + ".json")
    assert not is_taken(name)
    assert dropped_name(name) == name


def test_a_file_system_that_numbers_a_renamed_file_anew_has_jobs_and_bad_files_too(tmp_path: Path) -> None:
    class Anew(Fs):
        def __getattr__(self, name: str) -> Any:
            return self.numbered if name == "lstat" else super().__getattr__(name)

        def numbered(self, path: str) -> os.stat_result:
            found = os.lstat(path)
            return os.stat_result((found.st_mode, hash(path), *found[2:]))

    spool = Spool(tmp_path / "spool", durability="none", fs=Anew())
    drop(spool, "good.json", {"command": "true"})
    assert spool.adopt("good.json", NOW) is not None
    drop(spool, "bad.json", "bad")
    assert spool.reject("pending", "bad.json", "why", spool.signature("bad.json")) is None, "it might be another file"
    (name,) = (one.name for one in spool.entries(["pending"]) if not one.id)
    assert spool.reject("pending", name, "why", spool.signature(name)) == "bad.json.rejected"
