"""Runs the examples of one section, as a reader would who types them one after the other.

A section gets an empty home with a spool in it, and a worker in the background; one that says `queuectl init`, or
starts a worker before it waits for a job, gets no spool, or no worker, for it makes its own. Blocks run in their order,
in one shell:

    console  each line after "$ " is a command ("> " goes on with it); what is printed must be what stands below
    sh       runs as a whole, and must succeed; thousands (`n=2000`) become tens
    python, js  run by themselves
    cron     the command of each line runs, as cron would run it
    json, toml  must be a job, or settings, that queuectl accepts
    ini, text   are not run

A command must succeed, unless the next one is `echo $?`. What differs from run to run (times, generated ids, durations,
hosts) is made equal on both sides before the comparison; `...` stands for anything, on a line of its own for any lines.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from queuectl.config import load
from queuectl.core import job as jobs

from .pages import Block, Section

BIN = Path(sys.executable).parent
HOME = "/home/ada"  # how the pages call the reader's home
HOST = "alpha"  # and the host
LIMIT = 30.0  # seconds for a section
# Programs that the examples name as anybody's own. They say what they were asked to do.
STUBS = ("make", "convert", "curl", "backup", "ffmpeg", "notify", "train")
_MARK = "\x01"


class Step(NamedTuple):
    """One command of a block: what is typed, and what must be printed (None: not compared)."""

    block: Block
    command: str
    expected: list[str] | None


class Result(NamedTuple):
    """What a step printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


class Reader:
    """A reader's home, with what an example may find there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = home / ".programs"
        programs.mkdir()
        for name in STUBS:
            (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home),
            "TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "error",
        }  # fmt: skip

    def run(self, *words: str) -> str:
        """The output of a command, which must succeed."""
        return subprocess.run(
            words, cwd=self.home, env=self.environment, check=True, capture_output=True, text=True, timeout=LIMIT
        ).stdout

    def start_worker(self) -> None:
        """A worker in the background, on the spool of this home. It watches when this returns."""
        said = self.home / ".worker"
        with said.open("wb") as file:
            subprocess.Popen(
                ["queuectl", "worker", "start", "--count", "4"], cwd=self.home, env=self.environment,
                stdin=subprocess.DEVNULL, stderr=file, start_new_session=True,
            ).returncode = 0  # `stop_workers` ends it; without this Python warns that it still runs
        until(lambda: " works on " in said.read_text(), said.read_text)

    def stop_workers(self) -> None:
        """End all workers of all spools in this home, with their jobs (as SIGQUIT does)."""
        for spool in [path.parent for path in self.home.glob("**/.id")]:
            for lease in spool.glob("workers/*.json"):
                try:
                    os.kill(json.loads(lease.read_bytes())["pid"], signal.SIGQUIT)
                except (ProcessLookupError, FileNotFoundError):
                    continue
                _await_end(lease)

    def play(self, steps: list[Step]) -> list[Result]:
        """Type all commands into one shell. What each of them printed."""
        script = "".join(map(self._typed, range(len(steps)), steps)) + _mark(len(steps))
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            out, err = shell.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            out, err = shell.communicate()
        printed, said = _split(out), _split(err)
        missing = [step for n, step in enumerate(steps) if n + 1 not in printed]
        told = f"{out[-2000:]}{err[-2000:]}"
        assert not missing, f"line {missing[0].block.line}: it ended in:\n{missing[0].command}\n{told}"
        return [Result(printed[n][1], said[n][1], printed[n + 1][0]) for n in range(len(steps))]

    def _typed(self, number: int, step: Step) -> str:
        command = step.command
        if step.block.language != "console":
            command = f"set -e\n{command}\nset +e"
        return f"{_mark(number)}{command}\n"


def _mark(number: int) -> str:
    """Shell text that marks the begin of a step in both streams, with the exit code of the step before; `$?` stays."""
    return (
        f"_code=$?; printf '{_MARK}%s:%s{_MARK}' {number} $_code; printf '{_MARK}%s:%s{_MARK}' {number} $_code >&2;"
        " (exit $_code)\n"
    )


def _split(stream: str) -> dict[int, tuple[int, str]]:
    """By step: the exit code of the one before, and what the step printed."""
    pieces = stream.split(_MARK)
    found = {}
    for mark, text in zip(pieces[1::2], pieces[2::2], strict=True):
        number, _, code = mark.partition(":")
        found[int(number)] = (int(code), text)
    return found


def _await_end(lease: Path) -> None:
    until(lambda: not lease.exists(), lambda: f"{lease} does not end")


def until(condition: Callable[[], object], why: Callable[[], str], limit: float = LIMIT) -> None:
    """Wait for a condition, with a limit."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.01)


# -- from blocks to steps ---------------------------------------------------------------------------------------------


def steps_of(section: Section, home: Path) -> list[Step]:
    """The commands of a section, in their order. What is not run is checked here."""
    found: list[Step] = []
    for block in section.blocks:
        if block.language == "console":
            found += _console(block)
        elif block.language == "sh":
            found.append(Step(block, re.sub(r"^n=\d+$", "n=20", block.text, flags=re.MULTILINE), None))
        elif block.language in ("python", "js"):
            file = home / f"example-{block.line}.{block.language}"
            file.write_text(block.text)
            found.append(Step(block, f"{'node' if block.language == 'js' else 'python'} {file.name}", None))
        elif block.language == "cron":
            found += [Step(block, command, None) for command in _cron(block)]
        elif block.language == "json":
            jobs.parse(block.text.encode())
        elif block.language == "toml":
            file = home / "settings.toml"
            file.write_text(block.text)
            load(str(file), {}, warn=_refuse)
    return found


def _refuse(text: str) -> None:
    raise AssertionError(text)


def _console(block: Block) -> Iterator[Step]:
    command, expected = "", list[str]()
    for line in block.text.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            if command:
                yield Step(block, command, expected)
            command, expected = line.removeprefix("$ "), []
        elif line.startswith("> "):
            command += "\n" + line.removeprefix("> ")
        else:
            assert command, f"line {block.line}: a console block begins with '$ '"
            expected.append(line)
    yield Step(block, command, expected)


def _cron(block: Block) -> Iterator[str]:
    for line in block.text.splitlines():
        if re.match(r"[A-Z_]+=", line) or not line.strip() or line.startswith("#"):
            continue
        command = line.split(None, 5)[5]
        assert "%" not in command.replace(r"\%", ""), f"cron makes a line end of the % in {command}"
        yield f"sh -c {_quoted(command.replace(chr(92) + '%', '%'))}"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


# -- the comparison ---------------------------------------------------------------------------------------------------

_SAME = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "<time>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\d{8}T\d{6}\.\d{6}Z", "<stamp>"),
    (r"\b\d{8}T\d\d\b", "<hour>"),
    (r"\b[a-z0-9-]+-\d+-[0-9a-hjkmnp-tv-z]{10}\b", "<worker>"),
    (r"\b[0-9a-hjkmnp-tv-z]{18}\b", "<id>"),
    (r"\b\d+(\.\d+)?(e-\d+)? ?s\b", "<seconds>"),
    (r"\b\d+ MiB\b", "<size>"),
    (r'"(pid|duration|heartbeat_age)": [\d.e-]+', r'"\1": <n>'),
    (r"\b1 (slot|attempt)s?\b", r"1 \1"),
    (r"[ \t]+", " "),
)


def alike(text: str, home: Path) -> list[str]:
    """The lines of a text, with what differs from run to run made equal."""
    text = text.replace(str(home), HOME)
    for pattern, name in _SAME:
        text = re.sub(pattern, name, text)
    text = re.sub(rf"\b{re.escape(os.uname().nodename)}\b", HOST, text)
    return [line.strip() for line in text.strip("\n").split("\n")] if text.strip("\n") else []


def is_talk(line: str) -> bool:
    """Whether an expected line belongs to stderr: queuectl's talk, or a worker's."""
    return re.match(r"(queuectl: |Usage: |<time> (debug|info|warning|error): )", line) is not None


def matches(expected: list[str], found: list[str]) -> bool:
    """Whether the lines are the expected ones, where `...` stands for anything."""
    if not expected:
        return not found
    if expected[0] == "...":
        return any(matches(expected[1:], found[n:]) for n in range(len(found) + 1))
    return bool(found) and _line_matches(expected[0], found[0]) and matches(expected[1:], found[1:])


def _line_matches(expected: str, found: str) -> bool:
    if "..." not in expected:
        return expected == found
    pattern = re.sub(r"([][?*])", r"[\1]", expected).replace("...", "*")
    return fnmatch.fnmatchcase(found, pattern)
