"""A job that needs labels is run by whoever has them, and by nobody else. Real workers on one spool."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from queuectl import actions
from queuectl.errors import BadJob
from queuectl.spool import Spool
from tests.support import (
    WorkerProcess,
    body_of,
    drop,
    listing,
    places,
    queuectl,
    state_of,
    until,
    worker,
)


def who_ran(spool: Spool, job_id: str) -> list[str]:
    """The workers of all its attempts, in order."""
    return [entry["worker"] for entry in body_of(spool, job_id)["history"]]


def name_of(process: WorkerProcess, spool: Spool) -> str:
    return next(name.removesuffix(".json") for name in listing(spool, "workers") if f"-{process.pid}-" in name)


def ended(spool: Spool, *ids: str) -> None:
    until(lambda: all(spool.has_ended(i, "completed") or spool.has_ended(i, "dead") for i in ids), 30, f"{ids} end")


def test_each_job_runs_where_its_labels_are(spool: Spool) -> None:
    with worker(spool, "--count", "2") as plain, worker(spool, "--label", "gpu", "--label", "ssd") as labelled:
        wanted = [[], ["gpu"], ["ssd", "gpu"], ["gpu"], []] * 8
        ids = spool.enqueue_many([{"command": "true", "needs": needs} for needs in wanted])
        ended(spool, *ids)
        gpu = name_of(labelled, spool)
        assert name_of(plain, spool) != gpu
        for job_id, needs in zip(ids, wanted, strict=True):
            assert not needs or who_ran(spool, job_id) == [gpu]
        assert len({who for job_id in ids for who in who_ran(spool, job_id)}) == 2, "the other one works, too"


def test_a_worker_without_the_label_never_touches_the_job(spool: Spool) -> None:
    """Not even to read it: no claim, no attempt, and the same file under the same name."""
    with worker(spool, "--log-level", "debug"):
        before = {}
        for number in range(20):
            (place,) = places(spool, spool.enqueue("true", needs=["gpu"], id=f"job{number}"))
            before[place] = os.stat(Path(spool.root, place)).st_atime_ns
        ended(spool, spool.enqueue("true"))  # it has looked at what came before, and a scan finds the same
        ended(spool, spool.enqueue("true"))
        assert {f"pending/{name}" for name in listing(spool, "pending")} == set(before)
        for place, accessed in before.items():
            assert os.stat(Path(spool.root, place)).st_atime_ns == accessed


def test_a_dropped_file_with_needs_waits_for_its_worker_whoever_adopts_it(spool: Spool) -> None:
    with worker(spool):
        drop(spool, ".hidden", {"command": "echo $QUEUECTL_JOB_ID", "needs": ["ssd", "gpu"], "id": "one"})
        os.rename(os.path.join(spool.root, "pending", ".hidden"), os.path.join(spool.root, "pending", "dropped.json"))
        until(lambda: [n for n in listing(spool, "pending") if n.endswith(".p0.a0.ngpu+ssd.one.json")], what="adopted")
        with worker(spool, "--label", "gpu", "--label", "ssd") as labelled:
            ended(spool, "one")
            assert who_ran(spool, "one") == [name_of(labelled, spool)]


def test_a_retry_goes_to_a_worker_with_the_label_and_so_does_a_requeued_job(spool: Spool) -> None:
    settings = ("--max-retries", "1", "--backoff-base", "0.3")
    with worker(spool, *settings), worker(spool, "--label", "gpu", *settings) as labelled:
        spool.enqueue("false", needs=["gpu"], id="one")
        until(lambda: listing(spool, "failed"), what="it has failed once")
        assert ".p0.a1.ngpu.one.json" in listing(spool, "failed")[0]
        ended(spool, "one")
        assert actions.requeue(spool, "one")
        until(lambda: spool.has_ended("one", "dead") and len(who_ran(spool, "one")) == 4, what="its second life ends")
        assert set(who_ran(spool, "one")) == {name_of(labelled, spool)}


def test_a_job_of_a_killed_worker_goes_to_another_with_the_label(spool: Spool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with worker(spool) as plain, worker(spool, "--label", "gpu", "--backoff-base", "0") as first:
        spool.enqueue(f"until test -e {gate}; do sleep 0.05; done", needs=["gpu"], id="one")
        until(lambda: listing(spool, "logs"), what="it runs")
        first.kill()
        until(lambda: state_of(spool, "one") in ("failed", "pending"), what="the worker without the label recovers it")
        assert name_of(plain, spool)
        assert ".a1.ngpu.one.json" in places(spool, "one")[0]
        gate.touch()
        with worker(spool, "--label", "gpu") as second:
            ended(spool, "one")
            assert who_ran(spool, "one")[-1] == name_of(second, spool)
    assert state_of(spool, "one") == "completed"


def test_a_stop_gives_it_back_with_its_needs(spool: Spool) -> None:
    with worker(spool, "--label", "gpu") as labelled:
        spool.enqueue("sleep 60", needs=["gpu"], id="one")
        until(lambda: listing(spool, "processing"), what="it runs")
        assert queuectl(spool, "worker", "stop", "--now").returncode == 0
        assert labelled.process.wait(15) == 0
    assert listing(spool, "pending")[0].endswith(".p0.a0.ngpu.one.json")


def test_until_empty_does_not_wait_for_what_it_cannot_run(spool: Spool) -> None:
    spool.enqueue("true", needs=["gpu"], id="one")
    spool.enqueue("true", id="two")
    drop(spool, "three.json", {"command": "true", "needs": ["gpu"], "id": "three"})
    assert queuectl(spool, "worker", "start", "--until-empty").returncode == 0
    assert [state_of(spool, job_id) for job_id in ("one", "two", "three")] == ["pending", "completed", "pending"]
    assert queuectl(spool, "worker", "start", "--until-empty", "--label", "gpu").returncode == 0
    assert {state_of(spool, job_id) for job_id in ("one", "two", "three")} == {"completed"}


def test_a_window_full_of_what_others_must_run_hides_nothing(spool: Spool) -> None:
    """More names than any window holds stand before the one that it may take."""
    spool.enqueue_many([{"command": "true", "needs": ["gpu"], "priority": 5}] * 25_000)
    ended_soon = spool.enqueue("true")
    with worker(spool) as plain:
        ended(spool, ended_soon)
        assert who_ran(spool, ended_soon) == [name_of(plain, spool)]
    assert len(listing(spool, "pending")) == 25_000


def test_a_name_that_hides_what_its_content_needs_is_refused_and_kept(spool: Spool) -> None:
    """Somebody wrote a canonical name by hand, or an older queuectl did, which didn't know of needs."""
    name = "20261122T091530.123456Z.p0.a0.one.json"
    drop(spool, name, {"command": "true", "needs": ["gpu"], "id": "one"})
    with worker(spool):
        until(lambda: name_of_rejected(spool), what="it is set aside")
    assert "which the file's name doesn't say" in queuectl(spool, "dlq", "list").stdout
    rejected = name_of_rejected(spool)
    os.rename(os.path.join(spool.root, "dead", rejected), os.path.join(spool.root, "pending", "mended.json"))
    with worker(spool, "--label", "gpu"):
        ended(spool, "one")


def name_of_rejected(spool: Spool) -> str:
    return next((name for name in listing(spool, "dead") if name.endswith(".rejected")), "")


def test_show_says_which_label_it_waits_for_and_who_has_it(spool: Spool) -> None:
    def reason(job_id: str) -> str:
        return str(json.loads(queuectl(spool, "show", "--json", job_id).stdout)["reason"])

    spool.enqueue("sleep 60", needs=["gpu"], id="one")
    spool.enqueue("sleep 60", needs=["ssd", "gpu"], id="two")
    assert reason("one") == (
        "it waits for a worker with the label gpu: 0 workers alive, none with it; `queuectl worker start --label gpu`"
        " starts one"
    )
    with worker(spool, "--count", "3"):
        assert reason("two") == (
            "it waits for a worker with the labels gpu and ssd: 1 worker alive, none with them; `queuectl worker start"
            " --label gpu --label ssd` starts one"
        )
        shown = queuectl(spool, "show", "two").stdout
        assert "\nNeeds        gpu, ssd (0 of 1 worker alive can take it)\n" in shown
        with worker(spool, "--label", "gpu", "--stop-grace", "0"):
            until(lambda: listing(spool, "processing"), what="one runs")
            spool.enqueue("true", needs=["gpu"], id="three")
            assert reason("three") == "it waits for a slot: all 1 of workers with the label gpu are busy"
            assert "(1 of 2 workers alive can take it)" in queuectl(spool, "show", "three").stdout
            assert queuectl(spool, "cancel", "one", "two").returncode == 0


@pytest.mark.parametrize("needs", [["gpu"], ["ssd", "gpu"]])
def test_the_command_line_says_needs(spool: Spool, needs: list[str]) -> None:
    options = [word for label in needs for word in ("--needs", label)]
    assert queuectl(spool, "enqueue", "--id", "one", *options, "true").returncode == 0
    assert body_of(spool, "one")["needs"] == needs
    assert queuectl(spool, "enqueue", "--id", "two", *options, '{"command": "true", "needs": ["x"]}').returncode == 0
    assert body_of(spool, "two")["needs"] == needs, "options win over members"


def test_a_long_name_of_a_dropped_file_gives_way_to_its_needs(spool: Spool) -> None:
    labels = ["a" * 31, "b" * 32]
    drop(spool, "x" * 50 + ".json", {"command": "true", "needs": labels})
    drop(spool, "y" * 50 + ".json", {"command": "true", "needs": ["a"]})
    arguments = [f"--label={label}" for label in ("a", *labels)]
    assert queuectl(spool, "worker", "start", "--until-empty", *arguments).returncode == 0
    done = listing(spool, "completed")
    assert len(done) == 2
    assert [name for name in done if "y" * 50 in name]
    assert not [name for name in done if "x" * 50 in name]


def test_needs_too_long_for_an_id_are_refused_before_anything_is_written(spool: Spool) -> None:
    with pytest.raises(BadJob, match="needs: labels and id together take at most 114 characters"):
        spool.enqueue("true", id="x" * 100, needs=["gpu-of-the-large-one"])
    assert listing(spool, "pending") == listing(spool, ".ids") == listing(spool, ".tmp") == []
