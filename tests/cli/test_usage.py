"""Wrong usage: one sentence that names what was wrong and says what to do, the usage line, exit code 2."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queuectl.cli import GROUPS, MODULES, TEXT, main, text_of
from queuectl.cli.door import HelpWanted, Misuse, parse
from tests.cli.conftest import Queuectl

GLOBAL = "Usage: queuectl [options] [<command> [<argument>...]]"
ENQUEUE = (
    "Usage: queuectl enqueue [options] [--env=NAME=VALUE]... [--needs=LABEL]...\n"
    "                        [--] [<job>...]"
)
WAIT = "Usage: queuectl wait [options] (--all | [--] <id>...)"

# What is typed, what is said (without "queuectl: "), and the usage line ("" if it is not the line that is wrong). Where
# the sentence comes from the core, only its beginning stands here.
WRONG = [
    ([], "Say what to do; `queuectl --help` lists the commands.", GLOBAL),
    (["--sate"], "There is no option --sate. A command's options stand after the command.", GLOBAL),
    (["--json", "list"], "There is no option --json. A command's options stand after the command.", GLOBAL),
    (["--versoin"], "There is no option --versoin. Did you mean --version?", GLOBAL),
    (["--spool"], "--spool needs a value.", GLOBAL),
    (["enqeue", "x"], "There is no command 'enqeue'. Did you mean `queuectl enqueue`?", GLOBAL),
    (["add", "x"], "There is no command 'add'. Did you mean `queuectl enqueue`?", GLOBAL),
    (["jobs"], "There is no command 'jobs'. Did you mean `queuectl list`?", GLOBAL),
    (["retry", "x"], "There is no command 'retry'. Did you mean `queuectl dlq retry`?", GLOBAL),
    (["test-queue"], "There is no command 'test-queue'. Did you mean `queuectl demo`?", GLOBAL),
    (["xyzzy"], "There is no command 'xyzzy'. `queuectl --help` lists the commands.", GLOBAL),
    (["\x1b[31mred"], "There is no command '\\x1b[31mred'. `queuectl --help` lists the commands.", GLOBAL),
    (["wroker:start"], "There is no command 'wroker:start'. Did you mean `queuectl worker start`?", GLOBAL),
    (["worker"], "Say what to do with it; `queuectl worker --help` lists the actions.",
     "Usage: queuectl worker [options] [<action> [<argument>...]]"),
    (["worker", "strat"], "There is no `worker strat`. Did you mean `queuectl worker start`?",
     "Usage: queuectl worker <action> [<argument>...]"),
    (["dlq:purgatory"], "There is no `dlq purgatory`. There are list, retry and purge.",
     "Usage: queuectl dlq <action> [<argument>...]"),
    (["worker", "--count", "3", "start"],
     "There is no option --count for worker. A command's options stand after the command.",
     "Usage: queuectl worker [options] [<action> [<argument>...]]"),
    (["enqueue"], "Give a job: a command line in quotes.", ENQUEUE),
    (["enqueue", "--"], "After -- come the program and its arguments.", ENQUEUE),
    (["enqueue", "echo", "hi"], "A command of several words goes into quotes, or after --: queuectl enqueue"
     " \"echo hi\", or queuectl enqueue -- echo hi.", ENQUEUE),
    (["enqueue", "ls", "--", "-l"], "Put -- before the first word: queuectl enqueue -- ls -l.", ENQUEUE),
    (["enqueue", "ls", "-l"],
     "There is no option -l for enqueue. If it belongs to the job, put the job into quotes, or -- before it.", ENQUEUE),
    (["enqueue", "--command", "a", "b"], "Give one of: a job, --command or --batch.", ENQUEUE),
    (["enqueue", "x", "--id", "a", "--id", "b"], "--id is given twice; give it once.", ENQUEUE),
    (["enqueue", "x", "--priorty", "3"], "There is no option --priorty for enqueue. Did you mean --priority?", ENQUEUE),
    (["enqueue", "x", "--ba", "3"], "--ba could mean --backoff-base or --batch; write more of it.", ENQUEUE),
    (["enqueue", "x", "--priority"], "--priority needs a value.", ENQUEUE),
    (["enqueue", "x", "--json=yes"], "--json takes no value.", ENQUEUE),
    (["enqueue", "x", "--priority", "high"], "--priority must be a whole number, not 'high'.", ""),
    (["enqueue", "x", "--priority", "1000"], "priority: must be a whole number from -999 to 999, not 1000.", ""),
    (["enqueue", "x", "--max-retries", "-1"], "--max-retries must be a whole number from 0 up, not '-1'.", ""),
    (["enqueue", "x", "--max-retries", "1.5"], "--max-retries must be a whole number from 0 up, not '1.5'.", ""),
    (["enqueue", "x", "--timeout", "soon"],
     "--timeout: 'soon' is no duration; write it as 90s, 10m, 3h or 2d.", ""),
    (["enqueue", "x", "--timeout", "0"], "timeout: must be a number of seconds above 0...", ""),
    (["enqueue", "x", "--in", "-5"], "--in: '-5' is no duration; write it as 90s, 10m, 3h or 2d.", ""),
    (["enqueue", "x", "--in", "5m", "--run-at", "2040-01-01"],
     "--in and --run-at both say when; give one of them.", ""),
    (["enqueue", "x", "--run-at", "tomorrow"],
     "run_at: 'tomorrow' is no time; write it as 2026-11-22T09:15:30Z...", ""),
    (["enqueue", "x", "--backoff-base", "two"], "--backoff-base must be a number, not 'two'.", ""),
    (["enqueue", "x", "--backoff-base", "nan"], "backoff_base: must be a number from 0 to 1000000, not nan.", ""),
    (["enqueue", "x", "--env", "NOT_SET"],
     "--env takes NAME=VALUE, or the NAME of a variable that is set here: 'NOT_SET' is not set here; give its value.",
     ""),
    (["enqueue", "x", "--env", "=1"],
     "--env takes NAME=VALUE, or the NAME of a variable that is set here: not '=1'.", ""),
    (["enqueue", "-"], "- is no command. `--batch -` reads jobs from stdin, one a line.", ""),
    (["worker", "status"], "There is no `worker status`. Did you mean `queuectl worker list`?",
     "Usage: queuectl worker <action> [<argument>...]"),
    (["worker", "restart"], "There is no `worker restart`. There are start, stop and list.",
     "Usage: queuectl worker <action> [<argument>...]"),
    (["top"], "There is no command 'top'. Did you mean `queuectl status`?", GLOBAL),
    (["watch"], "There is no command 'watch'. Did you mean `queuectl status`?", GLOBAL),
    (["list", "pending"], "'pending' is one argument too many. Did you mean `queuectl list --state pending`?",
     "Usage: queuectl list [options]"),
    (["status", "job1"], "'job1' is one argument too many. `queuectl show job1` shows one job.",
     "Usage: queuectl status [options]"),
    (["enqueue", "x", "--needs", "a b"], "needs[0]: 'a b' cannot be a label; use 1 to 32 letters...", ""),
    (["worker", "start", "--label", "gpu,ssd"], "--label: 'gpu,ssd' cannot be a label; use 1 to 32 letters, digits, -"
     " and _, not beginning with -. For several labels repeat the option.", ""),
    (["enqueue", "x", "--id", "../x"], "id: '../x' cannot be one; use 1 to 100 letters, digits, - and _...", ""),
    (["enqueue", "   "], "command: is empty...", ""),
    (["enqueue", "{ echo a; echo b; }"], "not JSON: Expecting property name enclosed in double quotes at line 1 column"
     " 3. For a shell command that begins with { use --command.", ""),
    (["enqueue", '[{"command": "x"}]'], "A job is one JSON object, not a list. `--batch` takes many, one a line.", ""),
    (["enqueue", "{}"], "command: is missing...", ""),
    (["enqueue", '{"command": 3}'], "command: must be text, not a number...", ""),
    (["enqueue", '{"command": "x", "command": "y"}'], "command: stands twice in one object...", ""),
    (["enqueue", '{"command": "x", "timeout": NaN}'], "NaN is not JSON...", ""),
    (["enqueue", '{"command": "x"} {"command": "y"}'], "not JSON: Extra data at line 1 column 18. For a shell command"
     " that begins with { use --command.", ""),
    (["enqueue", "--batch", "-", "--id", "a"],
     "--id names one job, and --batch accepts many. Write the ids into the batch, as JSON.", ""),
    (["enqueue", "--batch", "nowhere"], "Could not read the batch 'nowhere': No such file or directory.", ""),
    (["enqueue", "--batch", "."], "Could not read the batch '.': Is a directory.", ""),
    (["list", "all"], "'all' is one argument too many. `queuectl show all` shows one job.",
     "Usage: queuectl list [options]"),
    (["list", "--state", "done"],
     "There is no state 'done'. There are pending, processing, completed, failed, dead.", ""),
    (["list", "--state", ","], "--state needs one or more of pending, processing, completed, failed, dead.", ""),
    (["list", "--limit", "many"], "--limit must be a whole number from 0 up, not 'many'.", ""),
    (["show"], "`queuectl show` needs <id>.", "Usage: queuectl show [options] [--] <id>"),
    (["show", "a", "b"], "'b' is one argument too many.", "Usage: queuectl show [options] [--] <id>"),
    (["logs", "--attempt", "0", "a"], "--attempt must be a whole number from 1 up, not '0'.", ""),
    (["wait"], "Give either --all or one or more <id>.", WAIT),
    (["wait", "--all", "a"], "Give either --all or one or more <id>, not both.", WAIT),
    (["wait", "a", "--timeout", "1y"], "--timeout: '1y' is no duration; write it as 90s, 10m, 3h or 2d.", ""),
    (["cancel"], "`queuectl cancel` needs <id>.", "Usage: queuectl cancel [options] [--] <id>..."),
    (["dlq", "retry"], "Give either --all or one or more <id>.",
     "Usage: queuectl dlq retry [options] (--all | [--] <id>...)"),
    (["config", "set", "jitter"], "`queuectl config set` needs <value>.",
     "Usage: queuectl config set [options] [--] <key> <value>"),
    (["config", "get"], "`queuectl config get` needs <key>.", "Usage: queuectl config get [options] [--] <key>"),
    (["prune"], "Say what to remove: --older-than, --keep or --state.", "Usage: queuectl prune [options]"),
    (["prune", "--state", "pending"],
     "Only ended jobs are removed; pending ones have not ended. `queuectl cancel` ends them.", ""),
    (["worker", "start", "--count", "0"], "--count must be a whole number from 1 up, not '0'.", ""),
    (["worker", "start", "--jitter", "some"], "--jitter: jitter must be none, full or equal, not 'some'.", ""),
    (["worker", "start", "3"], "'3' is one argument too many.",
     "Usage: queuectl worker start [options] [--label=NAME]..."),
    (["init", "a", "--spool", "b"], "<dir> and --spool both say where; give one of them.", ""),
    (["init", "a", "--group", "no such group"],
     "There is no group 'no such group' on this host. `getent group` lists them.", ""),
    (["help", "xyzzy"], "There is no help on 'xyzzy'. `queuectl help` lists what there is.",
     "Usage: queuectl help [options] [<topic>...]"),
    (["help", "enqeue"], "There is no help on 'enqeue'. Did you mean `queuectl help enqueue`?",
     "Usage: queuectl help [options] [<topic>...]"),
]  # fmt: skip


def in_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    return code, *capsys.readouterr()


@pytest.mark.parametrize(("arguments", "sentence", "usage"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_wrong_usage_is_said_in_a_sentence(
    arguments: list[str], sentence: str, usage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUECTL_SPOOL", str(tmp_path / "spool"))
    expected = f"queuectl: {sentence}\n{usage}\n" if usage else f"queuectl: {sentence}\n"
    in_process(["init"], capsys)
    code, out, err = in_process(arguments, capsys)
    if sentence.endswith("..."):
        expected = f"queuectl: {sentence[:-3]}"
        assert err.count("\n") == 1
        err = err[: len(expected)]
    assert (code, out, err) == (2, "", expected)
    assert in_process(["status", "--json"], capsys)[1].count('"total": 0'), "nothing should have been accepted"


def test_wrong_usage_for_real(queue: Queuectl) -> None:
    assert queue("enqueu", "x") == (
        2, "", f"queuectl: There is no command 'enqueu'. Did you mean `queuectl enqueue`?\n{GLOBAL}\n"
    )  # fmt: skip
    assert queue("enqueue", "x", "--nope").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["show", "nope"], 1, "There is no job 'nope' in this spool. See `queuectl list`."),
        (["logs", "nope"], 1, "There is no job 'nope' in this spool. See `queuectl list`."),
        (["wait", "nope"], 1, "There is no job 'nope' in this spool. See `queuectl list`."),
        (["cancel", "nope"], 1, "There is no job 'nope' in this spool. See `queuectl list`."),
        (["dlq", "retry", "nope"], 1, "There is no job 'nope' in this spool. See `queuectl list`."),
        (["show", "\x1b[2J"], 1, "There is no job '\\x1b[2J' in this spool. See `queuectl list`."),
        (["worker", "stop", "nope"], 1, "There is no worker 'nope' alive. `queuectl worker list` lists them."),
        (["config", "get", "max-retry"], 4, "There is no setting 'max-retry'. Did you mean max-retries?"),
        (["config", "set", "xyzzy", "1"], 4, "There is no setting 'xyzzy'. `queuectl config list` shows all."),
        (["config", "set", "max-retries", "-3"], 4,
         "config set: max-retries must be a whole number from 0 to 100000, not '-3'."),
        (["config", "set", "heartbeat", "60"], 4, "stale-after (120 s) must be at least 4 heartbeats (60 s each), or a"
         " worker that is only busy would be taken for dead. Set stale-after to 240 or more, or heartbeat lower."),
    ],
)  # fmt: skip
def test_negative_answers_and_bad_settings(queue: Queuectl, arguments: list[str], code: int, sentence: str) -> None:
    result = queue(*arguments)
    assert (result.code, result.err) == (code, f"queuectl: {sentence}\n")
    assert result.out == ""


@pytest.mark.parametrize(
    "arguments", [["status"], ["list"], ["show", "x"], ["logs", "x"], ["wait", "x"], ["cancel", "x"], ["dlq", "list"],
                  ["prune", "--keep", "1"], ["worker", "stop"], ["worker", "list"], ["config", "list"]],
)  # fmt: skip
def test_a_spool_that_is_not_there_is_exit_3(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "nowhere"
    sentence = f"queuectl: There is no spool at {place}. `queuectl init {place}` makes one.\n"
    assert in_process(["--spool", str(place), *arguments], capsys) == (3, "", sentence)
    assert in_process([arguments[0], *arguments[1:], "--spool", str(place)], capsys) == (3, "", sentence)
    assert not place.exists()


def test_a_spool_that_is_a_file_is_exit_3(queue: Queuectl) -> None:
    (queue.home / "file").write_text("")
    assert queue("--spool", "file", "enqueue", "x") == (
        3, "", f"queuectl: {queue.home}/file is no directory. Name one with --spool DIR.\n",
    )  # fmt: skip


def test_a_broken_config_file_is_exit_4_and_stays(queue: Queuectl) -> None:
    config = queue.home / "spool" / "config.toml"
    config.write_text("max-retries = [\n")
    for arguments in (["config", "list"], ["config", "set", "jitter", "full"], ["worker", "start", "--until-empty"]):
        result = queue(*arguments)
        assert (result.code, result.out) == (4, "")
        assert f"{config} is no TOML" in result.err
    assert config.read_text() == "max-retries = [\n"
    assert queue("enqueue", "x").code == 0, "what needs no setting goes on"


# -- anything at all --------------------------------------------------------------------------------------------------

WORDS = ["--", "-", "-h", "--help", "--json", "--all", "--id", "--env", "-c", "x", "{", "{}", "1", "-1", "", "--=",
         "a=b", "--state", "--limit=", "--l", "start", "list"]  # fmt: skip
ANYTHING = st.lists(st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=5), max_size=6)


@pytest.mark.parametrize("name", ["", *MODULES, *GROUPS])
@settings(max_examples=20)  # of each command
@given(arguments=ANYTHING)
def test_any_arguments_are_understood_or_explained(name: str, arguments: list[str]) -> None:
    first = not name or name in GROUPS
    text = text_of(name) if name else TEXT
    said: HelpWanted | Misuse | None = None
    try:
        parse(name, text, arguments, options_first=first)
    except (HelpWanted, Misuse) as error:
        said = error
    if isinstance(said, HelpWanted):
        assert said.text == text
    elif said is not None:
        assert str(said).endswith((".", "?"))
        assert said.usage.startswith("Usage: queuectl")


@given(arguments=ANYTHING)
def test_enqueue_never_fails_in_another_way(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("os.read", lambda fd, size: b"")
    code = main(["--spool", str(tmp_path / "spool"), "enqueue", *arguments])
    out, err = capsys.readouterr()
    assert code in (0, 2), err
    assert code == 0 or err.startswith("queuectl: ")
    assert code == 0 or not out
