"""Settings: flag > environment > config.toml > default, as one frozen value.

Owns the table of settings, their spellings, types and limits, and the file config.toml: read with tomllib, written
with tomlkit (which keeps comments) under filelock and by an atomic rename. Knows nothing of jobs or workers.

When things go wrong: a value that cannot be used is ConfigError that names the setting, where it came from and what
is expected. A worker that rereads a broken file keeps its last good settings and says so; that is worker.py's doing.

It is long because it is a table: each setting stands once, with its spellings, its limits and what it is for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from queuectl.core.times import parse_duration
from queuectl.errors import ConfigError, cut


class Setting(NamedTuple):
    """One setting: its key, its default, how text or a TOML value becomes a value, and what is expected in words."""

    key: str
    default: Any
    read: Callable[[Any], Any]
    expected: str
    help: str
    environment: tuple[str, ...] = ()


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, str):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return read


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, str):
            value = parse_duration(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError
        return float(value)

    return read


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, str):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError
        return float(value)

    return read


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if isinstance(value, str) and value.lower() in ("none", "") else read(value)


def _choice(*choices: str, **spellings: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        name = spellings.get(value.lower(), value.lower()) if isinstance(value, str) else ""
        if name not in choices:
            raise ValueError
        return name

    return read


def _size(value: Any, least: int = 0) -> int:
    if isinstance(value, str):
        import re

        found = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE | re.ASCII)
        if found is None:
            raise ValueError
        value = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[found[2].upper()]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1 << 50:
        raise ValueError
    return value


def _log_size(value: Any) -> int:
    from queuectl.core.logs import LEAST

    return _size(value, LEAST)


def _codes(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = [int(word) for word in value.replace(",", " ").split()]
    if isinstance(value, int):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError
    one = _whole(1, 255)
    return tuple(sorted({one(code) for code in value}))


SETTINGS = (
    Setting("max-retries", 3, _whole(0, 100_000), "a whole number from 0 to 100000",
            "retries after the first attempt; 3 means 1 + 3 attempts",
            ("QUEUECTL_MAX_RETRIES", "DEFAULT_MAX_RETRIES")),
    Setting("backoff-base", 2.0, _number(0, 1e6), "a number from 0 to 1000000",
            "a retry waits backoff-base ^ attempts seconds",
            ("QUEUECTL_BACKOFF_BASE", "DEFAULT_BACKOFF_BASE")),
    Setting("backoff-max", 3600.0, _seconds(0, 3.2e8), "seconds, or a duration such as 10m",
            "no retry waits longer"),
    Setting("jitter", "none", _choice("none", "full", "equal"), "none, full or equal",
            "spreads retries: a random part of the delay (full), or of its second half (equal)"),
    Setting("default-timeout", None, _or_none(_seconds(0.001, 3.2e8)), "seconds, a duration such as 10m, or none",
            "for jobs that say no timeout of their own"),
    Setting("log-level", "info", _choice("debug", "info", "warning", "error", warn="warning"),
            "debug, info, warning or error", "how much a worker says", ("QUEUECTL_LOG_LEVEL", "LOG_LEVEL")),
    Setting("heartbeat", 10.0, _seconds(0.1, 3600), "seconds from 0.1 to 3600",
            "how often a worker shows that it is alive"),
    Setting("stale-after", 120.0, _seconds(0.5, 86400), "seconds from 0.5 to 86400; at least 4 heartbeats",
            "after this long without a heartbeat, another host's worker counts as dead"),
    Setting("poll-interval", 1.0, _seconds(0.01, 3600), "seconds from 0.01 to 3600",
            "how often a network file system is listed"),
    Setting("stop-grace", None, _or_none(_seconds(0, 3.2e8)), "seconds, a duration such as 10m, or none",
            "how long a stopping worker lets jobs run; none: until they end"),
    Setting("durability", "fsync", _choice("fsync", "none"), "fsync or none",
            "fsync: accepted jobs and outcomes survive power loss; none: only crashes of processes"),
    Setting("min-free", 64 << 20, _size, "bytes, or a size such as 64M",
            "with less free space than this, no job is started"),
    Setting("max-log", 1 << 30, _or_none(_log_size), "bytes from 1M, a size such as 1G, or none",
            "of a log that grows beyond it, the beginning and the newest output are kept"),
    Setting("permanent-exit-codes", (100,), _codes, "exit codes from 1 to 255, separated by commas",
            "a job that ends with one of these is dead at once"),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
_SPELLINGS = {
    "default-max-retries": "max-retries",
    "default-backoff-base": "backoff-base",
    "timeout": "default-timeout",
}


class Config(NamedTuple):
    """All settings, as values: seconds are floats, sizes are bytes, "none" is None."""

    max_retries: int
    backoff_base: float
    backoff_max: float
    jitter: str
    default_timeout: float | None
    log_level: str
    heartbeat: float
    stale_after: float
    poll_interval: float
    stop_grace: float | None
    durability: str
    min_free: int
    max_log: int | None
    permanent_exit_codes: tuple[int, ...]


def canonical(key: str) -> str:
    """The one spelling of a setting's key. ConfigError with the nearest key if there is no such setting."""
    name = key.replace("_", "-").lower()
    name = _SPELLINGS.get(name, name)
    if name not in BY_KEY:
        import difflib

        near = difflib.get_close_matches(name, BY_KEY, 1)
        hint = f"Did you mean {near[0]}?" if near else "`queuectl config list` shows all."
        raise ConfigError(f"There is no setting {cut(key)}. {hint}")
    return name


def read_value(key: str, value: Any, source: str) -> Any:
    """A setting's value from text or TOML. ConfigError names the setting and `source` (where it came from)."""
    setting = BY_KEY[key]
    try:
        return setting.read(value)
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{source}: {key} must be {setting.expected}, not {cut(value)}.") from None


def load(
    path: str, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Config:
    """The settings in force. `path` is config.toml's (it need not exist); `flags` holds command line values by key.

    Raises ConfigError; `warn` is told of keys in the file that are no settings.
    """
    return _config({key: value for key, (value, _) in sources(path, environ, flags, warn).items()})


def problem(path: str, environ: Mapping[str, str]) -> str:
    """Why the settings cannot be used, in a sentence; "" if they can."""
    try:
        load(path, environ)
    except ConfigError as error:
        return str(error)
    return ""


def _config(values: Mapping[str, Any]) -> Config:
    if values["stale-after"] < 4 * values["heartbeat"]:
        raise ConfigError(
            f"stale-after ({values['stale-after']:g} s) must be at least 4 heartbeats ({values['heartbeat']:g} s each),"
            f" or a worker that is only busy would be taken for dead. Set stale-after to {4 * values['heartbeat']:g} or"
            " more, or heartbeat lower."
        )
    return Config(**{key.replace("-", "_"): value for key, value in values.items()})


def sources(
    path: str, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, tuple[Any, str]]:
    """Each setting's value and where it comes from: "default", "config.toml", a variable's name, or "flag"."""
    found: dict[str, tuple[Any, str]] = {setting.key: (setting.default, "default") for setting in SETTINGS}
    for key, value in read_file(path).items():
        try:
            name = canonical(key)
        except ConfigError as error:
            warn(f"{path}: {error}")
            continue
        found[name] = (read_value(name, value, path), "config.toml")
    for setting in SETTINGS:
        for variable in setting.environment or (f"QUEUECTL_{setting.key.replace('-', '_').upper()}",):
            if environ.get(variable):
                try:
                    found[setting.key] = (read_value(setting.key, environ[variable], f"${variable}"), variable)
                except ConfigError as error:
                    if variable != "LOG_LEVEL":
                        raise
                    warn(f"{error} It is another program's, and left out.")  # many programs share this one
                    continue
                break
    for key, value in (flags or {}).items():
        if value is not None:
            found[canonical(key)] = (read_value(canonical(key), value, f"--{canonical(key)}"), "flag")
    return found


def read_file(path: str) -> dict[str, Any]:
    """What config.toml says, unchecked; {} if there is none. ConfigError with line and column if it is no TOML."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"Could not read {path}: {error.strerror}.") from None
    if not data.strip():
        return {}
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}. Mend it, or remove it to return to the defaults.") from None


def durability_of(path: str) -> str:
    """The durability in force, at the least cost: `enqueue` needs no other setting, and parsing TOML costs it 8 ms.

    A file that doesn't hold the word cannot set it.
    """
    if os.environ.get("QUEUECTL_DURABILITY"):
        return str(read_value("durability", os.environ["QUEUECTL_DURABILITY"], "$QUEUECTL_DURABILITY"))
    try:
        with open(path, "rb") as file:
            if b"durability" not in file.read():
                return "fsync"
    except OSError:
        return "fsync"
    return load(path, os.environ).durability


def change(path: str, changes: Mapping[str, str | None], write: Callable[[bytes], None], mode: int = 0o600) -> None:
    """Set (text) or unset (None) settings in config.toml; comments and order are kept.

    Both of two changes at once take effect: the file is read and replaced (by `write`, atomically) under a lock; and if
    somebody has deleted the lock's file, so that two hold it, whoever finds the file changed begins again. ConfigError,
    SpoolError.
    """
    from filelock import FileLock, Timeout

    from queuectl.errors import SpoolError

    # What is no setting can be unset if it stands in the file.
    wanted = {canonical_or_none(key) or key if text is None else canonical(key): text for key, text in changes.items()}
    values = {key: None if text is None else read_value(key, text, "config set") for key, text in wanted.items()}
    try:
        with FileLock(path + ".lock", timeout=30, mode=mode, fallback_to_soft=False):
            before, after = None, b""
            while before != (before := _bytes_of(path)):
                read_file(path)  # a file that is broken is told of, not overwritten
                after = _edited(before.decode(), wanted, values, path)
            write(after)
    except Timeout:
        raise ConfigError(f"{path}.lock has been held for 30 s. Is another `queuectl config` hanging?") from None
    except OSError as error:
        raise SpoolError.of(error, "lock the settings", path + ".lock") from None


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _edited(text: str, wanted: Mapping[str, str | None], values: Mapping[str, Any], path: str) -> bytes:
    """The file's text with some settings set, or unset where `wanted` is None."""
    import tomlkit

    document = tomlkit.parse(text)
    for key, value in values.items():
        spellings = [name for name in document if name == key or canonical_or_none(name) == key]
        if not spellings:
            canonical(key)  # ConfigError if it is no setting, and there is nothing to unset
        for spelling in spellings:
            if value is None or spelling != key:
                document.remove(spelling)
        if wanted[key] is not None:
            document[key] = _plain(value)
    made = tomlkit.dumps(document)
    _config({key: value for key, (value, _) in _check(made, path).items()})
    return made.encode()


def canonical_or_none(key: str) -> str | None:
    """The one spelling of a key, or None if it is no setting."""
    try:
        return canonical(key)
    except ConfigError:
        return None


def _check(text: str, path: str) -> dict[str, tuple[Any, str]]:
    import tomllib

    found: dict[str, tuple[Any, str]] = {setting.key: (setting.default, "default") for setting in SETTINGS}
    for key, value in tomllib.loads(text).items():
        if name := canonical_or_none(key):
            found[name] = (read_value(name, value, path), path)
    return found


def _plain(value: Any) -> Any:
    """The value as TOML holds it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def say(key: str, value: Any) -> str:
    """The value as `config get` prints it, and as `config set` takes it."""
    plain = _plain(value)
    if isinstance(plain, list):
        return ",".join(map(str, plain))
    if isinstance(plain, float) and plain < 0.001:
        return f"{plain:.15f}".rstrip("0").rstrip(".")  # str would say 1e-05, which is no duration
    return str(plain)
