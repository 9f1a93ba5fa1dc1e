"""The job record: one JSON object, read strictly, written in one spelling.

Owns which members a job may have, what their values may be, and the older spellings that are taken on input. Members
it does not know are kept as they are. Whatever is wrong raises BadJob with the member's name and what is expected,
and nothing else: any bytes either parse or are refused so. Never touches a file, a clock or the environment.

It is long because it is a list: a function for each member, and none needs the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from queuectl.core.names import (
    HIGHEST_PRIORITY,
    LONGEST_ID,
    LONGEST_ID_WITH_NEEDS,
    LONGEST_LABEL,
    LONGEST_NEEDS,
    LOWEST_PRIORITY,
    Claim,
    is_id,
    is_label,
    needs_of,
)
from queuectl.core.times import iso, parse_instant, unstamp
from queuectl.errors import BadJob, cut

LARGEST_FILE = 1 << 20  # bytes; a larger file is rejected unread
# What queuectl itself writes may be larger: a history of 1,000 attempts takes 0.7 MB, and a number such as 1e15 takes
# four times its room when it is written again.
LARGEST_RECORD = 8 << 20
MOST_HISTORY = 1000  # entries; the oldest go first
LONGEST_ERROR = 2000  # characters of last_error
LAST_ATTEMPT = 10**9
DEEPEST = 64  # nesting of arrays and objects; Python's own limit is near 1,000 and raises RecursionError
MOST_RETRIES = 100_000
LONGEST_TIMEOUT = 10 * 365 * 86400.0  # seconds

# Spellings of earlier queuectl programs, and what they mean. "-" is read as "_" before.
_SPELLINGS = {
    "jobId": "id",
    "job_id": "id",
    "cmd": "command",
    "runAt": "run_at",
    "next_run_at": "run_at",
    "nextRunAt": "run_at",
    "maxRetries": "max_retries",
    "default_max_retries": "max_retries",
    "backoffBase": "backoff_base",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "lastError": "last_error",
    "exitCode": "exit_code",
}
_DERIVED = ("state",)  # the directory says it; a copy inside could only be wrong
JITTERS = ("none", "full", "equal")


class Job(NamedTuple):
    """What queuectl needs to know of a job, and `body`: the whole record in canonical spelling.

    `run_at` is nanoseconds UTC or None; `timeout` and the backoff are seconds; None means that the submitter said
    nothing and the worker's settings count. `needs` are the labels that a worker must have, as a name says them.
    """

    id: str | None
    command: str | None
    argv: list[str] | None
    priority: int
    run_at: int | None
    max_retries: int | None
    timeout: float | None
    backoff_base: float | None
    backoff_max: float | None
    jitter: str | None
    cwd: str | None
    env: dict[str, str]
    needs: str
    history: list[dict[str, Any]]
    body: dict[str, Any]

    @property
    def attempt(self) -> int:
        """The number that its next attempt gets. It goes on over requeues, so it names one attempt for ever."""
        return min(max((entry["attempt"] for entry in self.history), default=0) + 1, LAST_ATTEMPT)

    @property
    def shown(self) -> str:
        """The command as people see it."""
        if self.command is not None:
            return self.command
        import shlex

        return shlex.join(self.argv or [])


def parse(data: bytes, largest: int = LARGEST_FILE) -> Job:
    """The job in the bytes of a file of at most `largest` bytes. Raises BadJob."""
    if len(data) > largest:
        raise too_large(largest)
    if not data.strip(b"\0 \t\r\n"):
        raise BadJob("", "the file is empty; it needs a JSON object with a command")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadJob("", f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    if text.startswith("\ufeff"):
        raise BadJob("", "the file begins with a byte order mark; save it as UTF-8 without BOM")
    if data.count(b"[") + data.count(b"{") > DEEPEST:
        _check_depth(text)
    try:
        body = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise BadJob("", f"not JSON: {what} at line {error.lineno} column {error.colno}") from None
    except ValueError:  # Python's limit (sys.set_int_max_str_digits)
        raise BadJob("", "a number of more than 4300 digits is too large; write it as text") from None
    if "\\u" in text:
        _check_surrogates(body)
    return check(body)


def check(given: object) -> Job:
    """The job that a mapping describes. Raises BadJob that names the member. `given` is not changed."""
    if not isinstance(given, Mapping):
        raise BadJob("", f"a job is a JSON object such as {{\"command\": \"echo hi\"}}, not {_kind(given)}")
    body = _canonical(given)
    command, argv = _command(body)
    job_id = _id(body)
    return Job(
        id=job_id,
        command=command,
        argv=argv,
        priority=_whole(body, "priority", LOWEST_PRIORITY, HIGHEST_PRIORITY) or 0,
        run_at=_instant(body, "run_at"),
        max_retries=_whole(body, "max_retries", 0, MOST_RETRIES),
        timeout=_number(body, "timeout", LONGEST_TIMEOUT, above_zero=True),
        backoff_base=_number(body, "backoff_base", 1e6),
        backoff_max=_number(body, "backoff_max", LONGEST_TIMEOUT),
        jitter=_choice(body, "jitter", JITTERS),
        cwd=_cwd(body),
        env=_env(body),
        needs=_needs(body, job_id or ""),
        history=_history(body),
        body=body,
    )


def dump(body: Mapping[str, Any]) -> bytes:
    """The record as bytes: one line of UTF-8 JSON with a newline, so that `cat` and `jq` both read well."""
    return _ENCODER.encode(body).encode() + b"\n"


def submission(job: Job, job_id: str, now: int) -> bytes:
    """The record of a job that is accepted as `job_id` at `now` (nanoseconds UTC), as bytes.

    Raises BadJob if it cannot be written, or could not be read again: a program may pass any values.
    """
    body = {"id": job_id} | job.body | {"id": job_id, "created_at": job.body.get("created_at") or iso(now)}
    try:
        data = dump(body)
    except (TypeError, ValueError, RecursionError):
        raise BadJob(_unwritable(body), "holds what JSON cannot (a number such as NaN, an object of a program, half"
                     " of a surrogate pair, itself)") from None
    if len(data) > LARGEST_FILE:
        raise too_large(LARGEST_FILE)
    if data.count(b"[") + data.count(b"{") > DEEPEST:
        _check_depth(data.decode())
    return data


def too_large(largest: int) -> BadJob:
    """The error for a file or a job of more bytes than that."""
    return BadJob("", f"the file is larger than {largest} bytes; put the data in a file of its own")


def settled(
    job: Job, claim: Claim, attempts: int, now: int, entry: Mapping[str, Any] | None = None, error: str = "",
    exit_code: int | None = None,
) -> bytes:
    """The record of a job whose claim is being settled at `now` (nanoseconds UTC), as bytes.

    `attempts` is the count that the job keeps; `entry` is added to its history; `error` becomes last_error, or takes
    it away. The record names its claim, so that after a power cut a whole record can be told from a torn one.
    """
    body = {"id": claim.id} | job.body
    if "created_at" not in body:  # a dropped file: when it was adopted
        body["created_at"] = iso(unstamp(claim.not_before))
    body |= {"updated_at": iso(now), "attempts": attempts}
    for name, value in (("last_error", error[:LONGEST_ERROR] or None), ("exit_code", exit_code)):
        if value is None:
            body.pop(name, None)
        else:
            body[name] = value
    if entry is not None:
        body["history"] = [*job.history[1 - MOST_HISTORY :], dict(entry)]
    body["claim"] = claim.key
    return dump(body)


def last_settled(job: Job) -> int:
    """When this job's content was written by a settle, in nanoseconds UTC; 0 if that has never been."""
    try:
        return parse_instant(job.body["updated_at"]) if "claim" in job.body else 0
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0  # not queuectl's own


# -- what a member may be ---------------------------------------------------------------------------------------


def _canonical(given: Mapping[Any, Any]) -> dict[str, Any]:
    """One spelling for each known member. null means "not given", as the earlier programs wrote it."""
    body: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise BadJob(repr(key), "a member's name must be text")
        name = _SPELLINGS.get(key, key)
        if name not in KNOWN:
            dashed = key.replace("-", "_")
            name = _SPELLINGS.get(dashed, dashed)
            name = name if name in KNOWN else key
        if name in _DERIVED or (value is None and name in KNOWN):
            continue
        if name in spelt:
            raise BadJob(name, f"given twice, as {spelt[name]} and as {key}; keep one")
        spelt[name] = key
        body[name] = value
    payload = body.get("payload")
    if isinstance(payload, Mapping) and "command" not in body and "argv" not in body and "command" in payload:
        body["command"] = payload["command"]
    return body


# The members that mean something here.
KNOWN = frozenset(
    {
        "id", "command", "argv", "priority", "run_at", "max_retries", "timeout", "backoff_base", "backoff_max",
        "jitter", "cwd", "env", "needs", "attempts", "created_at", "updated_at", "last_error", "exit_code", "history",
        "state",
    }
)  # fmt: skip


def _command(body: dict[str, Any]) -> tuple[str | None, list[str] | None]:
    command, argv = body.get("command"), body.get("argv")
    if command is not None and argv is not None:
        raise BadJob("argv", "a job has either a command (for the shell) or argv (without a shell), not both")
    if argv is not None:
        if not isinstance(argv, (list, tuple)) or not argv:
            raise BadJob("argv", f"must be a list of text with at least the program's name, not {_kind(argv)}")
        for place, word in enumerate(argv):
            _text(f"argv[{place}]", word)
        if not argv[0]:
            raise BadJob("argv[0]", "the program's name is empty")
        body["argv"] = list(argv)
        return None, body["argv"]
    if command is None:
        raise BadJob("command", 'is missing; a job needs "command" (for the shell) or "argv" (a list)')
    if isinstance(command, (list, tuple)):
        raise BadJob("command", "must be text, not a list; for a list of words use argv")
    if not _text("command", command).strip():
        raise BadJob("command", "is empty; write what is to run")
    return command, None


def _id(body: dict[str, Any]) -> str | None:
    job_id = body.get("id")
    if job_id is not None and not (isinstance(job_id, str) and is_id(job_id)):
        raise BadJob(
            "id",
            f"{cut(job_id)} cannot be one; use 1 to {LONGEST_ID} letters, digits, - and _, not beginning with -",
        )
    return job_id


def _whole(body: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadJob(name, f"must be a whole number from {low} to {high}, not {cut(value)}")
    return value


def _number(body: dict[str, Any], name: str, high: float, *, above_zero: bool = False) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= high
    if not good or (above_zero and not value):
        zero = "; leave it out for none" if above_zero else ""
        limits = f"above 0 and up to {high:.0f}" if above_zero else f"from 0 to {high:.0f}"
        raise BadJob(name, f"must be a number of seconds {limits}, not {cut(value)}{zero}"
                     if name != "backoff_base" else f"must be a number from 0 to {high:.0f}, not {cut(value)}")
    return float(value)


def _instant(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadJob(name, f"must be text such as \"2026-11-22T09:15:30Z\" (ISO 8601), not {cut(value)}")
    try:
        ns = parse_instant(value)
    except ValueError as error:
        raise BadJob(name, str(error)) from None
    body[name] = iso(ns)
    return ns


def _choice(body: dict[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    value = body.get(name)
    if value is not None and value not in choices:
        raise BadJob(name, f"must be one of {', '.join(choices)}, not {cut(value)}")
    return value


def _cwd(body: dict[str, Any]) -> str | None:
    cwd = body.get("cwd")
    if cwd is not None and not _text("cwd", cwd).startswith("/"):
        raise BadJob("cwd", f"must be an absolute path, not {cut(cwd)}")
    return cwd


def _env(body: dict[str, Any]) -> dict[str, str]:
    env = body.get("env")
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise BadJob("env", f"must be an object of names and texts, not {_kind(env)}")
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise BadJob("env", f"{cut(name)} cannot be a variable's name")
        _text(f"env.{name}", value)
    variables = dict(env)
    body["env"] = variables
    return variables


def _needs(body: dict[str, Any], job_id: str) -> str:
    labels = body.get("needs")
    if labels is None:
        return ""
    if not isinstance(labels, (list, tuple)):
        raise BadJob("needs", f'must be a list of labels such as ["gpu"], not {_kind(labels)}')
    for place, label in enumerate(labels):
        if not isinstance(label, str) or not is_label(label):
            raise BadJob(f"needs[{place}]", f"{cut(label)} cannot be a label; use 1 to {LONGEST_LABEL} letters, digits,"
                         " - and _, not beginning with -")
        if label in labels[:place]:
            raise BadJob("needs", f"{label} stands twice; keep one")
    body["needs"] = list(labels)
    needs = needs_of(labels)
    if len(needs) > LONGEST_NEEDS:
        raise BadJob("needs", f"all labels together take at most {LONGEST_NEEDS} characters with a + between them, not"
                     f" {len(needs)}: they stand in the file's name")
    if needs and len(needs) + len(job_id) > LONGEST_ID_WITH_NEEDS:
        raise BadJob("needs", f"labels and id together take at most {LONGEST_ID_WITH_NEEDS} characters, not"
                     f" {len(needs) + len(job_id)}: they stand in the file's name; choose a shorter id")
    return needs


def _history(body: dict[str, Any]) -> list[dict[str, Any]]:
    history = body.get("history")
    if history is None:
        return []
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and type(entry.get("attempt")) is int and 0 < entry["attempt"] <= LAST_ATTEMPT
        for entry in history
    ):
        raise BadJob("history", 'must be a list of objects with an "attempt" each; leave it out of a new job')
    return history


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadJob(name, f"must be text, not {_kind(value)}")
    if "\0" in value:
        raise BadJob(name, "holds a NUL character, which no command or path can")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadJob(name, "holds half of a surrogate pair, which is no character") from None
    return value


# -- strictness that the json module lacks ------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJob(key, "stands twice in one object; keep one")
            seen.add(key)
    return made


def _no_constant(name: str) -> object:
    raise BadJob("", f"{name} is not JSON; write null, or leave it out")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadJob("", f"the number {text[:20]} is too large; write it as text")
    return value


def _check_depth(text: str) -> None:
    depth, quoted, escaped = 0, False, False
    for letter in text:
        if quoted:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                quoted = False
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
            if depth > DEEPEST:
                raise BadJob("", f"nested more than {DEEPEST} deep; make it flatter")
        elif letter in "]}":
            depth -= 1


def _check_surrogates(body: object) -> None:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadJob("", "a \\u escape is half of a surrogate pair, which is no character; write both halves") from None


def _unwritable(body: Mapping[str, Any]) -> str:
    """The name of the member that JSON cannot hold."""
    for name, value in body.items():
        try:
            dump({name: value})
        except (TypeError, ValueError, RecursionError):
            return name
    return ""


def _kind(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    kinds = {dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)



# Made once: json.loads and json.dumps with options make a new one each time, which costs as much as their work.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
