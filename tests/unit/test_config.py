"""Settings: each one misspelt, of the wrong type, at its limits; and which of four sources wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.config import SETTINGS, Config, canonical, load, read_value, say, sources
from queuectl.errors import CONFIG, ConfigError
from tests.unit.test_bad_jobs import label

DEFAULTS = {
    "max-retries": 3, "backoff-base": 2.0, "backoff-max": 3600.0, "jitter": "none", "default-timeout": None,
    "log-level": "info", "heartbeat": 10.0, "stale-after": 120.0, "poll-interval": 1.0, "stop-grace": None,
    "durability": "fsync", "min-free": 64 << 20, "max-log": 1 << 30, "permanent-exit-codes": (100,),
}  # fmt: skip

GOOD = [
    ("max-retries", "0", 0), ("max-retries", "100000", 100_000), ("max-retries", 5, 5),
    ("backoff-base", "0", 0.0), ("backoff-base", "1.5", 1.5), ("backoff-base", 1_000_000, 1e6),
    ("backoff-max", "10m", 600.0), ("backoff-max", 0, 0.0), ("backoff-max", "3.2e8"[:3], 3.2),
    ("jitter", "FULL", "full"), ("jitter", "equal", "equal"), ("jitter", "none", "none"),
    ("default-timeout", "none", None), ("default-timeout", "", None), ("default-timeout", "1h30m", 5400.0),
    ("default-timeout", 0.001, 0.001),
    ("log-level", "DEBUG", "debug"), ("log-level", "warning", "warning"), ("log-level", "warn", "warning"),
    ("heartbeat", "0.1", 0.1), ("heartbeat", "1h", 3600.0),
    ("stale-after", "1d", 86400.0), ("poll-interval", "0.01", 0.01),
    ("stop-grace", "0", 0.0), ("stop-grace", "None", None),
    ("durability", "none", "none"), ("durability", "FSYNC", "fsync"),
    ("min-free", "0", 0), ("min-free", "64M", 64 << 20), ("min-free", "1 GiB", 1 << 30), ("min-free", "5kb", 5 << 10),
    ("min-free", 12345, 12345), ("min-free", "2T", 2 << 40),
    ("max-log", "none", None), ("max-log", "1M", 1 << 20), ("max-log", "8 MiB", 8 << 20), ("max-log", 1 << 20, 1 << 20),
    ("permanent-exit-codes", "100", (100,)), ("permanent-exit-codes", "3, 1,2", (1, 2, 3)),
    ("permanent-exit-codes", [9, 9], (9,)), ("permanent-exit-codes", 7, (7,)), ("permanent-exit-codes", "", ()),
]  # fmt: skip

BAD: list[tuple[str, list[Any], str]] = [
    ("max-retries", ["-1", "100001", "1.5", "many", "", "1e3", True, 1.0, None, [3], "\ud800"],
     "max-retries must be a whole number from 0 to 100000"),
    ("backoff-base", ["-1", "1000001", "two", "nan", "inf", "", True, [2], None],
     "backoff-base must be a number from 0 to 1000000"),
    ("backoff-max", ["-1", "1e3", "10 m", "forever", "", "11y", "nan", False, 4e8, float("nan"), "9" * 400],
     "backoff-max must be seconds, or a duration such as 10m"),
    ("jitter", ["some", "", "half", True, 1, None, ["full"]], "jitter must be none, full or equal"),
    ("default-timeout", ["0", "-5", "soon", True, [], 0, float("inf")],
     "default-timeout must be seconds, a duration such as 10m, or none"),
    ("log-level", ["loud", "", "7", 3, True], "log-level must be debug, info, warning or error"),
    ("heartbeat", ["0", "0.05", "2h", "none", True], "heartbeat must be seconds from 0.1 to 3600"),
    ("stale-after", ["0.1", "2d", "never"], "stale-after must be seconds from 0.5 to 86400; at least 4 heartbeats"),
    ("poll-interval", ["0", "2h", "often", None], "poll-interval must be seconds from 0.01 to 3600"),
    ("stop-grace", ["-1", "soon", True], "stop-grace must be seconds, a duration such as 10m, or none"),
    ("durability", ["yes", "sync", "", True, 1], "durability must be fsync or none"),
    ("min-free", ["-1", "64X", "1.5G", "", "5\u212a", "5 0", True, 1.5, 1 << 60],
     "min-free must be bytes, or a size such as 64M"),
    ("max-log", ["0", "1023K", "-1", "much", True, 1.5, 1 << 60],
     "max-log must be bytes from 1M, a size such as 1G, or none"),
    ("permanent-exit-codes", ["0", "256", "-1", "a", "1;2", 1.5, [1.5], [True], {"a": 1}, True],
     "permanent-exit-codes must be exit codes from 1 to 255, separated by commas"),
]  # fmt: skip


def test_the_defaults_are_those_of_the_readme(tmp_path: Path) -> None:
    config = load(str(tmp_path / "config.toml"), {})
    assert config._asdict() == {key.replace("-", "_"): value for key, value in DEFAULTS.items()}
    assert [setting.key for setting in SETTINGS] == list(DEFAULTS)


@pytest.mark.parametrize(("key", "text", "value"), GOOD, ids=label)
def test_a_good_value_is_taken(key: str, text: Any, value: Any) -> None:
    assert read_value(key, text, "config set") == value


@pytest.mark.parametrize(("key", "value", "rule"),
                         [(key, value, rule) for key, values, rule in BAD for value in values], ids=label)
def test_a_bad_value_is_refused_with_source_setting_rule_and_value(key: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_value(key, value, "config set")
    shown = ascii(value) if len(ascii(value)) <= 60 else ascii(value)[:57] + "..."
    assert str(caught.value) == f"config set: {rule}, not {shown}."
    assert caught.value.exit_code == CONFIG


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers()),
                       st.dictionaries(st.text(), st.integers()), st.binary(), st.text("0123456789.kMsmhd,e- \u212a")))
def test_any_value_is_taken_or_refused_and_what_is_taken_can_be_said_and_set_again(setting: Any, value: Any) -> None:
    try:
        taken = read_value(setting.key, value, "test")
    except ConfigError as error:
        told(error)
        return
    again = read_value(setting.key, say(setting.key, taken), "test")
    assert again == (pytest.approx(taken, abs=1e-12) if isinstance(taken, float) else taken)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("backoff-max", 1_234_567.5, "1234567.5"), ("stop-grace", 0.00001, "0.00001"), ("backoff-max", 3.2e8, "320000000"),
     ("default-timeout", None, "none"), ("permanent-exit-codes", (1, 100), "1,100"), ("permanent-exit-codes", (), ""),
     ("min-free", 64 << 20, "67108864"), ("max-log", None, "none"), ("backoff-base", 1.5, "1.5"),
     ("max-retries", 3, "3")],
)  # fmt: skip
def test_a_value_is_said_in_a_form_that_can_be_set(key: str, value: Any, said: str) -> None:
    assert say(key, value) == said
    assert read_value(key, said, "test") == value


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*DEFAULTS, "default-max-retries", "default-backoff-base"])
def test_dashes_underscores_and_capitals_are_the_same(key: str) -> None:
    wanted = key.removeprefix("default-") if key not in DEFAULTS else key
    assert {canonical(key), canonical(key.replace("-", "_")), canonical(key.upper())} == {wanted}


@pytest.mark.parametrize("key", list(DEFAULTS))
def test_a_misspelt_key_is_refused_and_the_nearest_is_named(key: str) -> None:
    for misspelt in (key[:-1], key[1:], key + "s", key.replace("e", "a", 1), key.replace("-", "")):
        if misspelt not in DEFAULTS:
            with pytest.raises(ConfigError) as caught:
                canonical(misspelt)
            assert str(caught.value) == f"There is no setting {misspelt!r}. Did you mean {key}?"


@pytest.mark.parametrize("key", ["", "x", "colour", "\x1b[31m", "9" * 10_000, "\ud800"])
def test_a_key_that_is_like_no_other_points_to_the_list(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^There is no setting .*\. `queuectl config list` shows all\.$") as caught:
        canonical(key)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


# -- which source wins ------------------------------------------------------------------------------------------------


def told(error: ConfigError) -> None:
    assert str(error).isprintable()


def config_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


def test_flag_wins_over_environment_wins_over_file_wins_over_default(tmp_path: Path) -> None:
    path = config_file(tmp_path, "max-retries = 5\n")
    environ = {"QUEUECTL_MAX_RETRIES": "6"}
    seen = [
        sources(path + ".none", {})["max-retries"],
        sources(path, {})["max-retries"],
        sources(path, environ)["max-retries"],
        sources(path, environ, {"max-retries": "7"})["max-retries"],
    ]
    assert seen == [(3, "default"), (5, "config.toml"), (6, "QUEUECTL_MAX_RETRIES"), (7, "flag")]


def test_a_flag_that_was_not_given_and_an_empty_variable_say_nothing(tmp_path: Path) -> None:
    path = config_file(tmp_path, "max-retries = 5\n")
    assert load(path, {"QUEUECTL_MAX_RETRIES": ""}, {"max-retries": None}).max_retries == 5


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DEFAULT_MAX_RETRIES", "7", "max_retries", 7), ("QUEUECTL_MAX_RETRIES", "7", "max_retries", 7),
        ("DEFAULT_BACKOFF_BASE", "3", "backoff_base", 3.0), ("QUEUECTL_BACKOFF_BASE", "3", "backoff_base", 3.0),
        ("QUEUECTL_BACKOFF_MAX", "5m", "backoff_max", 300.0), ("QUEUECTL_JITTER", "full", "jitter", "full"),
        ("QUEUECTL_DEFAULT_TIMEOUT", "5m", "default_timeout", 300.0), ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("QUEUECTL_LOG_LEVEL", "error", "log_level", "error"), ("QUEUECTL_HEARTBEAT", "5", "heartbeat", 5.0),
        ("QUEUECTL_STALE_AFTER", "600", "stale_after", 600.0), ("QUEUECTL_POLL_INTERVAL", "2", "poll_interval", 2.0),
        ("QUEUECTL_STOP_GRACE", "30s", "stop_grace", 30.0), ("QUEUECTL_DURABILITY", "none", "durability", "none"),
        ("QUEUECTL_MIN_FREE", "1G", "min_free", 1 << 30), ("QUEUECTL_MAX_LOG", "none", "max_log", None),
        ("QUEUECTL_PERMANENT_EXIT_CODES", "1,2", "permanent_exit_codes", (1, 2)),
    ],
)  # fmt: skip
def test_every_setting_has_its_variables(tmp_path: Path, variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(load(str(tmp_path / "none"), {variable: text}), field) == value


def test_queuectls_own_variable_wins_over_the_shared_one(tmp_path: Path) -> None:
    environ = {"LOG_LEVEL": "debug", "QUEUECTL_LOG_LEVEL": "error", "DEFAULT_MAX_RETRIES": "1",
               "QUEUECTL_MAX_RETRIES": "2"}  # fmt: skip
    config = load(str(tmp_path / "none"), environ)
    assert (config.log_level, config.max_retries) == ("error", 2)


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none"), {"DEFAULT_MAX_RETRIES": "lots"})
    assert str(caught.value) == "$DEFAULT_MAX_RETRIES: max-retries must be a whole number from 0 to 100000, not 'lots'."


def test_a_bad_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--stop-grace: stop-grace must be seconds"):
        load(str(tmp_path / "none"), {}, {"stop_grace": "soon"})


@pytest.mark.parametrize(
    ("heartbeat", "stale", "good"), [("10", "40", True), ("10", "39", False), ("31", "120", False)]
)
def test_a_worker_must_have_time_for_four_heartbeats(tmp_path: Path, heartbeat: str, stale: str, good: bool) -> None:
    flags = {"heartbeat": heartbeat, "stale-after": stale}
    if good:
        assert load(str(tmp_path / "none"), {}, flags).stale_after == float(stale)
        return
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none"), {}, flags)
    assert str(caught.value) == (
        f"stale-after ({stale} s) must be at least 4 heartbeats ({heartbeat} s each),"
        f" or a worker that is only busy would be taken for dead. Set stale-after to {4 * int(heartbeat)} or more, or"
        " heartbeat lower."
    )


def test_settings_are_one_value_that_cannot_be_changed(tmp_path: Path) -> None:
    config: Any = load(str(tmp_path / "none"), {})
    assert isinstance(config, Config)
    with pytest.raises(AttributeError):
        config.max_retries = 5  # type: ignore[misc]
