"""config.toml on the disk: changes keep comments, two at once both count, and what is broken is told of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from queuectl import config
from queuectl.errors import ConfigError, QueuectlError, SpoolError
from queuectl.spool import Spool
from tests.support import at_once, leftovers, needs_root


def write(spool: Spool, text: str | bytes) -> Path:
    path = Path(spool.config_path)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(spool: Spool) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(spool.config_path, {})
    return str(caught.value)


def test_settings_are_made_changed_and_removed(spool: Spool) -> None:
    path = Path(spool.config_path)
    spool.change_config({"max-retries": "5", "jitter": "full"})
    assert path.read_text() == 'max-retries = 5\njitter = "full"\n'
    spool.change_config({"max_retries": "6", "jitter": None})
    assert path.read_text() == "max-retries = 6\n"
    spool.change_config({"max-retries": None})
    assert path.read_text() == ""
    assert leftovers(spool) == []


def test_comments_order_and_strange_keys_are_kept(spool: Spool) -> None:
    text = (
        "# ours\nmax-retries = 5  # more than most\n\nnotes = { a = 1 }\njitter = 'full'\n\n[other]\nmax-retries = 1\n"
    )
    path = write(spool, text)
    spool.change_config({"max-retries": "7", "durability": "none"})
    changed = path.read_text()
    assert "max-retries = 7  # more than most" in changed
    for line in ("# ours", "notes = { a = 1 }", "jitter = 'full'", "[other]\nmax-retries = 1"):
        assert line in changed
    assert config.load(spool.config_path, {}).durability == "none", "a new setting doesn't land in a table"


def test_an_older_spelling_becomes_the_one_that_is_written(spool: Spool) -> None:
    path = write(spool, "default_max_retries = 5\nbackoff_base = 3\n")
    spool.change_config({"max-retries": "6"})
    assert config.load(spool.config_path, {})[:2] == (6, 3.0)
    assert "default_max_retries" not in path.read_text()


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("max-retries", "5", "max-retries = 5"),
        ("backoff-base", "1.5", "backoff-base = 1.5"),
        ("backoff-max", "10m", "backoff-max = 600"),
        ("jitter", "FULL", 'jitter = "full"'),
        ("default-timeout", "none", 'default-timeout = "none"'),
        ("heartbeat", "5s", "heartbeat = 5"),
        ("stop-grace", "1h", "stop-grace = 3600"),
        ("durability", "none", 'durability = "none"'),
        ("min-free", "1M", "min-free = 1048576"),
        ("permanent-exit-codes", "3,100", "permanent-exit-codes = [3, 100]"),
    ],
)
def test_a_value_is_written_as_toml_and_read_back(spool: Spool, key: str, text: str, line: str) -> None:
    spool.change_config({key: text})
    assert Path(spool.config_path).read_text() == line + "\n"
    value, source = config.sources(spool.config_path, {})[key]
    assert value == config.read_value(key, text, "test")
    assert source == "config.toml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max-retries": "lots"}, "config set: max-retries must be a whole number from 0 to 100000, not 'lots'."),
        ({"max-retires": "5"}, "There is no setting 'max-retires'. Did you mean max-retries?"),
        ({"max-retries": "5", "heartbeat": "0"}, "config set: heartbeat must be seconds from 0.1 to 3600, not '0'."),
        ({"heartbeat": "100"}, "stale-after (120 s) must be at least 4 heartbeats (100 s each), or a worker that is"
                               " only busy would be taken for dead. Set stale-after to 400 or more, or heartbeat"
                               " lower."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_changes_nothing(spool: Spool, changes: dict[str, str], message: str) -> None:
    path = write(spool, "jitter = 'full'\n")
    with pytest.raises(ConfigError) as caught:
        spool.change_config(dict(changes))
    assert str(caught.value) == message
    assert path.read_text() == "jitter = 'full'\n"


def test_two_settings_that_depend_on_each_other_can_be_changed_together(spool: Spool) -> None:
    spool.change_config({"heartbeat": "100", "stale-after": "1000"})
    assert config.load(spool.config_path, {}).stale_after == 1000.0


def test_unsetting_what_is_not_set_is_fine(spool: Spool) -> None:
    spool.change_config({"jitter": None})
    assert config.load(spool.config_path, {}).jitter == "none"


CHANGE = """
import os, sys
import filelock, tomlkit
from queuectl import Spool
spool = Spool(sys.argv[1], durability="none")
start, go = os.pipe()
children = []
for change in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(start, 1)
        spool.change_config(dict([change.split("=")]))
        os._exit(0)
    children.append(pid)
input()
os.close(go)
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_of_fifty_changes_at_once_all_take_effect(spool: Spool) -> None:
    """Row 80, ten settings by five processes each; the last to come agree on the value."""
    wanted = {
        "max-retries": "7", "backoff-base": "3", "backoff-max": "60", "jitter": "full", "log-level": "debug",
        "heartbeat": "5", "stale-after": "99", "poll-interval": "2", "stop-grace": "9", "min-free": "5",
    }  # fmt: skip
    at_once(CHANGE, [[spool.root, *(f"{key}={value}" for key, value in wanted.items() for _ in range(5))]])
    found = config.sources(spool.config_path, {})
    assert {key: config.say(key, found[key][0]) for key in wanted} == wanted
    assert leftovers(spool) == []


# -- broken files (row 79) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max-retries = ", "Invalid value (at end of document)"),
        ("max-retries", "Expected '=' after a key in a key/value pair (at end of document)"),
        ("= 5\n", "Invalid statement (at line 1, column 1)"),
        ("a = 1\na = 2\n", "Cannot overwrite a value (at line 2, column 6)"),
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ('max-retries = "5', "Unterminated string (at end of document)"),
        ("[[[\n", ""),
    ],
)
def test_a_file_that_is_no_toml_is_told_of_with_its_place(spool: Spool, text: str | bytes, problem: str) -> None:
    path = write(spool, text)
    message = refused(spool)
    assert message.startswith(f"{path} is no TOML: {problem}")
    assert message.endswith(". Mend it, or remove it to return to the defaults.")
    with pytest.raises(ConfigError) as caught:
        spool.change_config({"jitter": "full"})
    assert str(caught.value) == message, "what is broken is told of, not overwritten"
    assert path.read_bytes() == (text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-retries = 'x'", "max-retries must be a whole number from 0 to 100000, not 'x'."),
        ("max-retries = 1.5", "max-retries must be a whole number from 0 to 100000, not 1.5."),
        ("max-retries = true", "max-retries must be a whole number from 0 to 100000, not True."),
        ("backoff-base = nan", "backoff-base must be a number from 0 to 1000000, not nan."),
        ("backoff-max = inf", "backoff-max must be seconds, or a duration such as 10m, not inf."),
        ("jitter = ['full']", "jitter must be none, full or equal, not ['full']."),
        ("[heartbeat]\nx = 1", "heartbeat must be seconds from 0.1 to 3600, not {'x': 1}."),
        ("stop-grace = 2026-11-22", "stop-grace must be seconds, a duration such as 10m, or none, not"
                                    " datetime.date(2026, 11, 22)."),
        ("permanent-exit-codes = [0]", "permanent-exit-codes must be exit codes from 1 to 255, separated by commas,"
                                       " not [0]."),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_told_of_with_the_file(spool: Spool, text: str, message: str) -> None:
    path = write(spool, text)
    assert refused(spool) == f"{path}: {message}"


def test_an_unknown_key_is_warned_of_and_the_rest_counts(spool: Spool) -> None:
    path = write(spool, "max_retires = 5\njitter = 'full'\n[table]\nx = 1\n")
    said: list[str] = []
    assert config.load(spool.config_path, {}, warn=said.append).jitter == "full"
    assert said == [
        f"{path}: There is no setting 'max_retires'. Did you mean max-retries?",
        f"{path}: There is no setting 'table'. `queuectl config list` shows all.",
    ]


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n"])
def test_an_empty_file_is_no_settings(spool: Spool, text: str) -> None:
    write(spool, text)
    assert config.load(spool.config_path, {}).max_retries == 3


def test_a_directory_in_its_place_is_told_of(spool: Spool) -> None:
    os.mkdir(spool.config_path)
    assert refused(spool) == f"Could not read {spool.config_path}: Is a directory."


# -- the lock (rows 81 and 82) ----------------------------------------------------------------------------------------


def test_a_lock_that_is_a_link_is_refused_without_waiting(spool: Spool, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", spool.config_path + ".lock")
    with pytest.raises(SpoolError) as caught:
        spool.change_config({"jitter": "full"})
    assert str(caught.value).startswith(f"Could not lock the settings: {spool.config_path}.lock: ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_that_was_removed_while_it_is_held_does_not_break_the_file(spool: Spool) -> None:
    """Two may then change at once; each still writes a whole file."""
    from filelock import FileLock

    with FileLock(spool.config_path + ".lock"):
        os.unlink(spool.config_path + ".lock")
        spool.change_config({"jitter": "full"})
    assert config.load(spool.config_path, {}).jitter == "full"


@needs_root
def test_a_config_that_cannot_be_read_is_told_of(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(spool, "jitter = 'full'\n")
    path.unlink()
    path.symlink_to(path)
    assert refused(spool) == f"Could not read {path}: Too many levels of symbolic links."


# -- durability, which enqueue reads by itself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "durable"),
    [
        (None, None, True),
        ("", None, True),
        ("max-retries = 5\n", None, True),
        ("durability = 'none'\n", None, False),
        ("durability = 'fsync'\n", None, True),
        ("# durability = 'none'\n", None, True),
        ("durability = 'none'\n", "fsync", True),
        ("durability = 'fsync'\n", "none", False),
        ("max-retries = 'broken'\n", None, True),
    ],
)
def test_durability_comes_from_environment_file_or_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, environment: str | None, durable: bool
) -> None:
    if environment:
        monkeypatch.setenv("QUEUECTL_DURABILITY", environment)
    spool = Spool(tmp_path / "spool")
    if text is not None:
        write(spool, text)
    assert spool.durable is durable


def test_a_durability_that_cannot_be_understood_accepts_no_job(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    write(spool, "durability = 'sometimes'\n")
    with pytest.raises(QueuectlError) as caught:
        spool.enqueue("true")
    assert str(caught.value) == f"{spool.config_path}: durability must be fsync or none, not 'sometimes'."
    assert leftovers(spool) == []
