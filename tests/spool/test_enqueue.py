"""Enqueue: what is accepted is kept, under one id, once; what is not accepted leaves nothing behind."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from queuectl.core.names import parse_waiting
from queuectl.core.times import unstamp
from queuectl.errors import BadJob, IdTaken, SpoolError
from queuectl.spool import Spool
from tests.spool.faults import Fs
from tests.support import age, at_once, body_of, leftovers, listing, places, state_of, whole_tree


def test_an_accepted_job_is_one_file_whose_name_says_all_that_a_worker_needs(spool: Spool) -> None:
    before = time.time_ns()
    job_id = spool.enqueue("echo hi", priority=10)
    (name,) = listing(spool, "pending")
    waiting = parse_waiting(name)
    assert waiting is not None
    assert (waiting.priority, waiting.attempts, waiting.id) == (10, 0, job_id)
    assert before // 1000 <= unstamp(waiting.not_before) // 1000 <= time.time_ns() // 1000
    assert leftovers(spool) == []


def test_the_file_holds_what_was_given_and_the_id_and_when_it_was_accepted(spool: Spool) -> None:
    job_id = spool.enqueue("echo é", env={"A": "b"}, note=[1, {"x": None}], max_retries=1)
    body = body_of(spool, job_id)
    assert next(iter(body)) == "id"
    assert body.pop("created_at").endswith("Z")
    assert body == {"id": job_id, "command": "echo é", "env": {"A": "b"}, "note": [1, {"x": None}], "max_retries": 1}


def test_a_job_that_is_asked_for_later_waits_until_then(spool: Spool) -> None:
    spool.enqueue("true", run_at="2099-01-02T03:04:05+01:00")
    assert listing(spool, "pending")[0].startswith("20990102T020405.000000Z.p0.a0.")


def test_argv_is_kept_as_a_list(spool: Spool) -> None:
    assert body_of(spool, spool.enqueue(argv=("ls", "a b")))["argv"] == ["ls", "a b"]


def test_a_chosen_id_is_reserved_and_can_be_looked_up(spool: Spool) -> None:
    assert spool.enqueue("true", id="job1") == "job1"
    assert listing(spool, ".ids") == ["job1"]
    entry = spool.find("job1")
    assert entry is not None
    assert spool.load(entry) is not None
    with pytest.raises(IdTaken) as caught:
        spool.enqueue("true", id="job1")
    assert str(caught.value) == "id: a job named job1 exists already; choose another id, or leave it out"
    assert len(listing(spool, "pending")) == 1
    assert leftovers(spool) == []


def test_generated_ids_are_unique_and_sort_by_time(spool: Spool) -> None:
    ids = [spool.enqueue("true") for _ in range(50)]
    assert len(set(ids)) == 50
    assert ids == sorted(ids)
    assert listing(spool, ".ids") == [], "they need no coordination"


def test_a_batch_runs_in_its_order_and_gives_its_ids_in_order(spool: Spool) -> None:
    ids = spool.enqueue_many([{"command": f"echo {n}"} for n in range(40)])
    names = listing(spool, "pending")
    assert [name.split(".")[-2] for name in names] == ids == sorted(ids)
    assert [body_of(spool, job_id)["command"] for job_id in ids] == [f"echo {n}" for n in range(40)]


def test_an_empty_batch_is_nothing(spool: Spool) -> None:
    assert spool.enqueue_many([]) == []


@pytest.mark.parametrize(
    "bad",
    [{"command": ""}, {"command": "true", "id": "a/b"}, "echo hi", None, {"command": "true", "x": float("nan")},
     {"command": "true", "x": object()}, {"command": "true", "env": {"A": "n" * 1_100_000}}],
)  # fmt: skip
def test_one_bad_job_in_a_batch_and_nothing_is_accepted(spool: Spool, bad: Any) -> None:
    with pytest.raises(BadJob):
        spool.enqueue_many([{"command": "true"}, {"command": "true", "id": "good"}, bad])
    assert {name for names in whole_tree(spool).values() for name in names} == set()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x": float("inf")}, "x: holds what JSON cannot (a number such as NaN, an object of a program, half of a"
                              " surrogate pair, itself)"),
        ({"note": {"a": {1, 2}}}, "note: holds what JSON cannot (a number such as NaN, an object of a program, half of"
                                  " a surrogate pair, itself)"),
        ({"note": "\ud800"}, "note: holds what JSON cannot (a number such as NaN, an object of a program, half of a"
                             " surrogate pair, itself)"),
        ({"note": "x" * 1_048_576}, "the file is larger than 1048576 bytes; put the data in a file of its own"),
        ({"cwd": Path("/tmp")}, "cwd: must be text, not PosixPath"),
        ({"timeout": "5"}, "timeout: must be a number of seconds above 0 and up to 315360000, not '5'; leave it out for"
                           " none"),
    ],
)  # fmt: skip
def test_what_a_program_passes_is_accepted_only_if_a_worker_can_read_it(
    spool: Spool, members: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadJob) as caught:
        spool.enqueue("true", **members)
    assert str(caught.value) == message
    assert listing(spool, "pending") == leftovers(spool) == []


def test_a_job_nested_too_deep_for_its_reader_is_not_accepted(spool: Spool) -> None:
    deep: list[Any] = []
    for _ in range(80):
        deep = [deep]
    with pytest.raises(BadJob, match="nested more than 64 deep; make it flatter"):
        spool.enqueue("true", note=deep)


def test_the_same_id_twice_in_one_batch_is_refused_before_anything_is_accepted(spool: Spool) -> None:
    with pytest.raises(IdTaken):
        spool.enqueue_many([{"command": "a", "id": "x"}, {"command": "b"}, {"command": "c", "id": "x"}])
    assert listing(spool, "pending") == listing(spool, ".ids") == leftovers(spool) == []
    assert spool.enqueue("a", id="x") == "x"


@pytest.mark.parametrize("size", [1, 15, 16, 40])
def test_what_is_durable_is_synced_before_the_name_appears_and_its_directory_after(tmp_path: Path, size: int) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="fsync", fs=fs)
    fs.calls.clear()
    spool.enqueue_many([{"command": "true"}] * size)
    kinds = [name for name, _ in fs.calls]
    assert kinds.count("rename") == size
    last = len(kinds) - 1 - kinds[::-1].index("rename")
    first = kinds.index("rename")
    if size < 16:  # more are synced by one syncfs, which doesn't pass here
        assert kinds[:first].count("fsync") == size
    assert kinds[last + 1 :] == ["fsync"], "the directory, once"
    assert kinds[first : last + 1] == ["rename"] * size


def test_without_durability_nothing_is_synced(tmp_path: Path) -> None:
    fs = Fs()
    spool = Spool(tmp_path / "spool", durability="none", fs=fs)
    fs.calls.clear()
    spool.enqueue("true", id="x")
    assert [name for name, _ in fs.calls] == ["open", "write", "symlink", "rename"]


# -- the same id at once (row 20) -------------------------------------------------------------------------------------

RACE = """
import sys
from queuectl import Spool
from queuectl.errors import IdTaken
spool = Spool(sys.argv[1], durability="none")
input()
won = []
for n in range(60):
    try:
        won.append(spool.enqueue("true", id=f"job{n}"))
    except IdTaken:
        pass
print(*won)
"""


def test_of_several_processes_that_enqueue_one_id_at_once_one_wins(spool: Spool) -> None:
    won = " ".join(at_once(RACE, [[spool.root]] * 3)).split()
    assert sorted(won) == sorted(f"job{n}" for n in range(60))
    assert len(listing(spool, "pending")) == 60
    assert leftovers(spool) == []


def test_of_several_threads_that_share_a_spool_and_enqueue_one_id_one_wins(spool: Spool) -> None:
    barrier = threading.Barrier(4)
    won: list[str] = []
    lost: list[str] = []
    broken: list[BaseException] = []

    def enqueue() -> None:
        barrier.wait()
        for n in range(60):
            try:
                won.append(spool.enqueue("true", id=f"job{n}"))
            except IdTaken:
                lost.append(f"job{n}")
            except BaseException as error:
                broken.append(error)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    assert (len(won), len(lost), len(set(won))) == (60, 180, 60)


FORKED = """
import os, sys
from queuectl import Spool
from queuectl.errors import IdTaken
spool = Spool(sys.argv[1], durability="none")
spool.enqueue("true", id="first")
input()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        for n in range(40):
            spool.enqueue("true")
            try:
                spool.enqueue("true", id=f"job{n}")
                os.write(1, f"job{n}\\n".encode())
            except IdTaken:
                pass
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_processes_forked_from_one_that_has_a_spool_do_not_meet_in_its_names(spool: Spool) -> None:
    (out,) = at_once(FORKED, [[spool.root]])
    assert sorted(out.split()) == sorted(f"job{n}" for n in range(40))
    assert len(listing(spool, "pending")) == 1 + 120 + 40


# -- ids that were reserved and not used ------------------------------------------------------------------------------


def test_an_id_whose_enqueuer_died_can_be_taken_after_a_while(spool: Spool) -> None:
    os.symlink("nobody.1=draft", spool.dir(".ids") + "x")
    assert spool.enqueue("true", id="x") == "x"


def test_an_id_whose_enqueuer_is_still_at_work_cannot_be_taken(spool: Spool) -> None:
    Path(spool.dir(".tmp") + "somebody.1=draft").write_text("{}")
    os.symlink("somebody.1=draft", spool.dir(".ids") + "x")
    with pytest.raises(IdTaken):
        spool.enqueue("true", id="x")
    age(spool)
    assert spool.enqueue("true", id="x") == "x"


def test_an_id_whose_job_was_taken_out_of_the_spool_by_hand_is_free_again(spool: Spool) -> None:
    spool.enqueue("true", id="x")
    os.unlink(spool.dir("pending") + listing(spool, "pending")[0])
    assert spool.enqueue("true", id="x") == "x"


@pytest.mark.parametrize("state", ["completed", "dead"])
def test_the_id_of_a_job_that_has_ended_is_never_free(spool: Spool, state: str) -> None:
    Path(spool.dir(state) + "x.json").write_text('{"command": "true"}')
    with pytest.raises(IdTaken):
        spool.enqueue("true", id="x")
    assert listing(spool, ".ids") == []


def test_a_generated_id_of_another_job_cannot_be_chosen(spool: Spool) -> None:
    job_id = spool.enqueue("true")
    with pytest.raises(IdTaken):
        spool.enqueue("true", id=job_id)
    assert len(places(spool, job_id)) == 1


def test_two_who_find_one_abandoned_id_do_not_both_get_it(spool: Spool) -> None:
    for n in range(60):
        os.symlink("nobody.1=draft", spool.dir(".ids") + f"job{n}")
    won = " ".join(at_once(RACE, [[spool.root]] * 3)).split()
    assert sorted(won) == sorted(f"job{n}" for n in range(60))


def test_a_missing_spool_is_made_with_its_parents_and_is_private(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "b" / "spool", durability="none")
    spool.enqueue("true")
    assert os.stat(spool.root).st_mode & 0o777 == 0o700
    assert state_of(spool, json.loads(Path(spool.path_of(next(spool.entries()))).read_text())["id"]) == "pending"


def test_a_spool_that_is_not_there_is_told_of_if_it_is_not_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(SpoolError) as caught:
        Spool(tmp_path / "spool", create=False)
    assert str(caught.value) == f"There is no spool at {tmp_path}/spool. `queuectl init {tmp_path}/spool` makes one."
