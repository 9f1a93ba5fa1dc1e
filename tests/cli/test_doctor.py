"""`doctor` as its users meet it: its table, its JSON, its exit codes, and two that meet."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

from queuectl.errors import NEGATIVE, OK, SPOOL
from tests.cli.conftest import COMMAND, LIMIT, Queuectl
from tests.support import until, worker


def durable(queue: Queuectl) -> Queuectl:
    queue.ok("config", "set", "durability", "fsync")
    queue.ok("config", "set", "min-free", "0")
    return queue


def start(queue: Queuectl, *options: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "doctor", "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=queue.environ | environ, cwd=queue.home,
    )  # fmt: skip


def test_the_table_says_level_check_and_what_was_found(queue: Queuectl) -> None:
    result = durable(queue)("doctor")
    assert (result.code, result.err) in ((OK, ""), (NEGATIVE, ""))  # yellow if the tests' disk is slow, or small
    lines = result.out.splitlines()
    assert re.fullmatch(r"LEVEL   CHECK +FOUND, AND WHAT TO DO", lines[0])
    found = [match for line in lines[1:] if (match := re.fullmatch(r"(green|yellow) +(\w+(?: \w+)*)  +(\S.*)", line))]
    assert [match[2] for match in found][:2] == ["file system", "mount options"]
    assert len(found) >= 14
    assert not os.path.exists(f"{queue.spool.root}/.doctor")


def test_the_json_says_the_same(queue: Queuectl) -> None:
    result = durable(queue)("doctor", "--json")
    about = json.loads(result.out)
    assert set(about) == {"spool", "worst", "findings"}
    assert about["spool"] == queue.spool.root
    assert {"green": OK, "yellow": NEGATIVE, "red": SPOOL}[about["worst"]] == result.code
    for finding in about["findings"]:
        assert list(finding) == ["check", "level", "found", "remedy"]
        assert bool(finding["remedy"]) == (finding["level"] != "green")


def test_the_exit_code_is_the_worst_that_was_found(queue: Queuectl) -> None:
    durable(queue)
    queue.ok("config", "set", "durability", "none")
    assert queue("doctor").code == NEGATIVE
    assert re.search(r"^yellow  sync .*durability is none", queue("doctor").out, re.MULTILINE)
    queue.ok("config", "set", "min-free", "900T")
    result = queue("doctor")
    assert result.code == SPOOL
    assert re.search(r"^red     space .*so no job is started\n +Make room, for example with `queuectl prune --older-",
                     result.out, re.MULTILINE)  # fmt: skip


def test_colour_is_for_terminals_and_no_color_is_respected(queue: Queuectl) -> None:
    assert "\x1b[" not in queue("doctor").out
    assert "\x1b[32mgreen " in queue.on_terminal("doctor").out
    assert "\x1b[" not in queue.on_terminal("doctor", NO_COLOR="1").out
    assert all(len(line) <= 60 for line in queue.on_terminal("doctor", columns=60, NO_COLOR="1").out.splitlines())


def test_without_a_spool_or_with_broken_settings(queue: Queuectl) -> None:
    assert queue("--spool", "nowhere", "doctor").code == SPOOL
    (queue.home / "spool" / "config.toml").write_text("min-free = [")
    result = queue("doctor")
    assert result.code == 3
    assert re.search(r"^red +settings +.*config\.toml is no TOML", result.out, re.MULTILINE)
    assert result.out.startswith("LEVEL")


def test_nobody_comes(queue: Queuectl) -> None:
    result = durable(queue)("doctor", "--peer", "--wait", "0.2s")
    assert result.code == NEGATIVE
    assert "nobody came" in result.out
    assert result.err == "queuectl: Waiting for another host: run `queuectl doctor --peer` there.\n"
    assert queue("doctor", "--wait", "soon").code == 2


def test_two_meet_and_see_each_other_while_a_worker_works(queue: Queuectl) -> None:
    durable(queue)
    with worker(queue.spool):
        both = [start(queue, "--peer", "--wait", "30s", QUEUECTL_PRETEND_HOST=name) for name in ("alpha", "beta")]
        answers = [(json.loads(one.communicate(timeout=LIMIT)[0])["findings"], one.returncode) for one in both]
        for (findings, code), other in zip(answers, ("beta", "alpha"), strict=True):
            found = {finding["check"]: finding for finding in findings}
            assert code in (OK, NEGATIVE)
            assert found["other host"]["found"] == f"met {other}"
            assert found["told by inotify"]["level"] == "green"
            assert re.fullmatch(r"after [\d.]+ \w+ \(median of \d\), at most .*", found["seen by listing"]["found"])
            assert found["lock across hosts"]["found"] == "shared"
            assert found["claims"]["level"] == "green"
        took = [sorted(map(int, re.findall(r"took (\d+), the other (\d+)", claims)[0]))
                for findings, _ in answers for f in findings if f["check"] == "claims" for claims in [f["found"]]]
        assert took[0] == took[1]
        queue.ok("enqueue", "--id", "one", "true")
        queue.await_state("one", "completed")
    assert not os.path.exists(f"{queue.spool.root}/.doctor")


def test_a_peer_that_is_killed_in_the_middle_is_told(queue: Queuectl) -> None:
    durable(queue)
    staying, going = (start(queue, "--peer", "--wait", "30s", QUEUECTL_PRETEND_HOST=name) for name in ("alpha", "beta"))
    assert staying.stderr is not None
    until(lambda: "Met beta" in staying.stderr.readline(), LIMIT, "they meet")  # type: ignore[union-attr]
    going.send_signal(signal.SIGTERM)  # it removes nothing
    out, _ = staying.communicate(timeout=2 * LIMIT)
    found = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert staying.returncode == SPOOL
    assert found["other host"]["found"] == "met beta, who did not stay to the end"
    going.communicate()
