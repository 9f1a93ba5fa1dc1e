"""Bad input, and what the user reads. Each row: the bytes of a file, and the whole message."""

from __future__ import annotations

import json

import pytest

from queuectl.core.job import parse
from queuectl.errors import BadJob

LABEL_RULE = "use 1 to 32 letters, digits, - and _, not beginning with -"
ID_RULE = "use 1 to 100 letters, digits, - and _, not beginning with -"

# Bytes that are no JSON object at all: the message says where, and what to do.
NOT_JSON = [
    (b"", "the file is empty; it needs a JSON object with a command"),
    (b" \n\t ", "the file is empty; it needs a JSON object with a command"),
    (b"\0" * 512, "the file is empty; it needs a JSON object with a command"),
    (b'{"command": "a\xff"}', "byte 14 is not UTF-8; save the file as UTF-8"),
    ('{"command": "a"}'.encode("utf-16"), "byte 0 is not UTF-8; save the file as UTF-8"),
    (b'\xef\xbb\xbf{"command": "a"}', "the file begins with a byte order mark; save it as UTF-8 without BOM"),
    (b'{"command": "a"', "not JSON: Expecting ',' delimiter at line 1 column 16"),
    (b'{"command": "a"} x', "not JSON: Extra data at line 1 column 18"),
    (b'{"command": "a"}{"command": "b"}', "not JSON: Extra data at line 1 column 17"),
    (b'{"command": "a"}\n\n{"command": "b"}', "not JSON: Extra data at line 3 column 1"),
    (b"{'command': 'a'}", "not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
    (b'{"command": "a\nb"}', "not JSON: Invalid control character at line 1 column 15"),
    (b"echo hi", "not JSON: Expecting value at line 1 column 1"),
    (b'[{"command": "a"}]', 'a job is a JSON object such as {"command": "echo hi"}, not a list'),
    (b'"echo hi"', 'a job is a JSON object such as {"command": "echo hi"}, not text'),
    (b"5", 'a job is a JSON object such as {"command": "echo hi"}, not a number'),
    (b"true", 'a job is a JSON object such as {"command": "echo hi"}, not true or false'),
    (b"null", 'a job is a JSON object such as {"command": "echo hi"}, not null'),
    (b"[" * 200_000, "nested more than 64 deep; make it flatter"),
    (b'{"a":' * 200_000, "nested more than 64 deep; make it flatter"),
    (b'{"command": "a", "x": ' + b"[" * 64 + b"]" * 64 + b"}", "nested more than 64 deep; make it flatter"),
    (b'{"command": "a", "x": NaN}', "NaN is not JSON; write null, or leave it out"),
    (b'{"command": "a", "timeout": Infinity}', "Infinity is not JSON; write null, or leave it out"),
    (b'{"command": "a", "x": -Infinity}', "-Infinity is not JSON; write null, or leave it out"),
    (b'{"command": "a", "x": 1e999}', "the number 1e999 is too large; write it as text"),
    (b'{"command": "a", "x": ' + b"9" * 5000 + b"}",
     "a number of more than 4300 digits is too large; write it as text"),
    (b'{"command": "a\\ud800"}', "a \\u escape is half of a surrogate pair, which is no character; write both halves"),
    (b'{"command": "a", "x": {"\\udfff": 1}}',
     "a \\u escape is half of a surrogate pair, which is no character; write both halves"),
    (b'{"command": "' + b"x" * (1 << 20) + b'"}',
     "the file is larger than 1048576 bytes; put the data in a file of its own"),
]  # fmt: skip

# Objects with one member at fault: the message begins with its name.
BAD_MEMBERS = [
    ('{"command": "a", "command": "b"}', "command", "command: stands twice in one object; keep one"),
    ('{"command": "a", "x": {"y": 1, "y": 2}}', "y", "y: stands twice in one object; keep one"),
    ('{"command": "a", "max_retries": 1, "maxRetries": 2}', "max_retries",
     "max_retries: given twice, as max_retries and as maxRetries; keep one"),
    ("{}", "command", 'command: is missing; a job needs "command" (for the shell) or "argv" (a list)'),
    ('{"comand": "a"}', "command", 'command: is missing; a job needs "command" (for the shell) or "argv" (a list)'),
    ('{"command": ""}', "command", "command: is empty; write what is to run"),
    ('{"command": " \\n"}', "command", "command: is empty; write what is to run"),
    ('{"command": 5}', "command", "command: must be text, not a number"),
    ('{"command": ["echo", "hi"]}', "command", "command: must be text, not a list; for a list of words use argv"),
    ('{"command": {"x": 1}}', "command", "command: must be text, not an object"),
    ('{"command": "a\\u0000b"}', "command", "command: holds a NUL character, which no command or path can"),
    ('{"command": "a", "argv": ["b"]}', "argv",
     "argv: a job has either a command (for the shell) or argv (without a shell), not both"),
    ('{"argv": "echo hi"}', "argv", "argv: must be a list of text with at least the program's name, not text"),
    ('{"argv": []}', "argv", "argv: must be a list of text with at least the program's name, not an empty list"),
    ('{"argv": {}}', "argv", "argv: must be a list of text with at least the program's name, not an object"),
    ('{"argv": [""]}', "argv[0]", "argv[0]: the program's name is empty"),
    ('{"argv": ["a", 5]}', "argv[1]", "argv[1]: must be text, not a number"),
    ('{"argv": ["a", null]}', "argv[1]", "argv[1]: must be text, not null"),
    ('{"argv": ["a\\u0000"]}', "argv[0]", "argv[0]: holds a NUL character, which no command or path can"),
    ('{"command": "a", "id": "../x"}', "id", f"id: '../x' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "."}', "id", f"id: '.' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "a/b"}', "id", f"id: 'a/b' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "-rf"}', "id", f"id: '-rf' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "x\\n"}', "id", f"id: 'x\\n' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "j\\u043eb"}', "id", f"id: 'j\\u043eb' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": ""}', "id", f"id: '' cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": 7}', "id", f"id: 7 cannot be one; {ID_RULE}"),
    ('{"command": "a", "jobId": ["x"]}', "id", f"id: ['x'] cannot be one; {ID_RULE}"),
    ('{"command": "a", "id": "%s"}' % ("x" * 300), "id", f"id: '{'x' * 56}... cannot be one; {ID_RULE}"),
    ('{"command": "a", "priority": 1000}', "priority",
     "priority: must be a whole number from -999 to 999, not 1000"),
    ('{"command": "a", "priority": "high"}', "priority",
     "priority: must be a whole number from -999 to 999, not 'high'"),
    ('{"command": "a", "priority": true}', "priority",
     "priority: must be a whole number from -999 to 999, not True"),
    ('{"command": "a", "priority": 1.5}', "priority", "priority: must be a whole number from -999 to 999, not 1.5"),
    ('{"command": "a", "max_retries": -1}', "max_retries",
     "max_retries: must be a whole number from 0 to 100000, not -1"),
    ('{"command": "a", "max_retries": 1e3}', "max_retries",
     "max_retries: must be a whole number from 0 to 100000, not 1000.0"),
    ('{"command": "a", "max_retries": "3"}', "max_retries",
     "max_retries: must be a whole number from 0 to 100000, not '3'"),
    ('{"command": "a", "maxRetries": 100001}', "max_retries",
     "max_retries: must be a whole number from 0 to 100000, not 100001"),
    ('{"command": "a", "timeout": 0}', "timeout",
     "timeout: must be a number of seconds above 0 and up to 315360000, not 0; leave it out for none"),
    ('{"command": "a", "timeout": -5}', "timeout",
     "timeout: must be a number of seconds above 0 and up to 315360000, not -5; leave it out for none"),
    ('{"command": "a", "timeout": "10m"}', "timeout",
     "timeout: must be a number of seconds above 0 and up to 315360000, not '10m'; leave it out for none"),
    ('{"command": "a", "timeout": 1e300}', "timeout",
     "timeout: must be a number of seconds above 0 and up to 315360000, not 1e+300; leave it out for none"),
    ('{"command": "a", "timeout": false}', "timeout",
     "timeout: must be a number of seconds above 0 and up to 315360000, not False; leave it out for none"),
    ('{"command": "a", "backoff_base": -2}', "backoff_base",
     "backoff_base: must be a number from 0 to 1000000, not -2"),
    ('{"command": "a", "backoff-base": "2"}', "backoff_base",
     "backoff_base: must be a number from 0 to 1000000, not '2'"),
    ('{"command": "a", "backoff_max": -1}', "backoff_max",
     "backoff_max: must be a number of seconds from 0 to 315360000, not -1"),
    ('{"command": "a", "jitter": "some"}', "jitter", "jitter: must be one of none, full, equal, not 'some'"),
    ('{"command": "a", "jitter": ["full"]}', "jitter", "jitter: must be one of none, full, equal, not ['full']"),
    ('{"command": "a", "run_at": 1795338930}', "run_at",
     'run_at: must be text such as "2026-11-22T09:15:30Z" (ISO 8601), not 1795338930'),
    ('{"command": "a", "run_at": 1795338930.5}', "run_at",
     'run_at: must be text such as "2026-11-22T09:15:30Z" (ISO 8601), not 1795338930.5'),
    ('{"command": "a", "run_at": "tomorrow"}', "run_at",
     "run_at: 'tomorrow' is no time; write it as 2026-11-22T09:15:30Z (ISO 8601)"),
    ('{"command": "a", "run_at": "2026-02-30T10:00:00Z"}', "run_at",
     "run_at: '2026-02-30T10:00:00Z' is no time; write it as 2026-11-22T09:15:30Z (ISO 8601)"),
    ('{"command": "a", "run_at": "1969-12-31T23:59:59Z"}', "run_at",
     "run_at: '1969-12-31T23:59:59Z' lies outside the years 1970 to 9999"),
    ('{"command": "a", "run_at": "9999-12-31T23:59:59-01:00"}', "run_at",
     "run_at: '9999-12-31T23:59:59-01:00' lies outside the years 1970 to 9999"),
    ('{"command": "a", "cwd": "here"}', "cwd", "cwd: must be an absolute path, not 'here'"),
    ('{"command": "a", "cwd": 5}', "cwd", "cwd: must be text, not a number"),
    ('{"command": "a", "cwd": "/a\\u0000"}', "cwd", "cwd: holds a NUL character, which no command or path can"),
    ('{"command": "a", "env": ["A=b"]}', "env", "env: must be an object of names and texts, not a list"),
    ('{"command": "a", "env": {"A=": "b"}}', "env", "env: 'A=' cannot be a variable's name"),
    ('{"command": "a", "env": {"": "b"}}', "env", "env: '' cannot be a variable's name"),
    ('{"command": "a", "env": {"A\\u0000": "b"}}', "env", "env: 'A\\x00' cannot be a variable's name"),
    ('{"command": "a", "env": {"PORT": 8080}}', "env.PORT", "env.PORT: must be text, not a number"),
    ('{"command": "a", "env": {"A": null}}', "env.A", "env.A: must be text, not null"),
    ('{"command": "a", "env": {"A": "b\\u0000"}}', "env.A",
     "env.A: holds a NUL character, which no command or path can"),
    ('{"command": "a", "needs": "gpu"}', "needs", 'needs: must be a list of labels such as ["gpu"], not text'),
    ('{"command": "a", "needs": {"gpu": 1}}', "needs",
     'needs: must be a list of labels such as ["gpu"], not an object'),
    ('{"command": "a", "needs": ["ssd", 1]}', "needs[1]", f"needs[1]: 1 cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": [null]}', "needs[0]", f"needs[0]: None cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": [""]}', "needs[0]", f"needs[0]: '' cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": ["a.b"]}', "needs[0]", f"needs[0]: 'a.b' cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": ["a+b"]}', "needs[0]", f"needs[0]: 'a+b' cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": ["../x"]}', "needs[0]", f"needs[0]: '../x' cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": ["gpu\\n"]}', "needs[0]", f"needs[0]: 'gpu\\n' cannot be a label; {LABEL_RULE}"),
    ('{"command": "a", "needs": ["gpu", "gpu"]}', "needs", "needs: gpu stands twice; keep one"),
    ('{"command": "a", "needs": ["' + "a" * 32 + '", "' + "b" * 32 + '", "c"]}', "needs",
     "needs: all labels together take at most 64 characters with a + between them, not 67: they stand in the file's"
     " name"),
    ('{"command": "a", "id": "%s", "needs": ["gpu-of-the-large-one"]}' % ("x" * 100), "needs",
     "needs: labels and id together take at most 114 characters, not 120: they stand in the file's name; choose a"
     " shorter id"),
    ('{"command": "a", "history": "x"}', "history",
     'history: must be a list of objects with an "attempt" each; leave it out of a new job'),
    ('{"command": "a", "history": [{"attempt": 0}]}', "history",
     'history: must be a list of objects with an "attempt" each; leave it out of a new job'),
    ('{"payload": {"command": 5}}', "command", "command: must be text, not a number"),
    # What could mislead a terminal is shown escaped, and cut.
    ('{"\\u001b[31m\\u202ered": 1, "\\u001b[31m\\u202ered": 2}', "\x1b[31m\u202ered",
     "'\\x1b[31m\\u202ered': stands twice in one object; keep one"),
    ('{"command": "a", "run_at": "\\u001b[2J"}', "run_at",
     "run_at: '\\x1b[2J' is no time; write it as 2026-11-22T09:15:30Z (ISO 8601)"),
    ('{"command": "a", "run_at": "%s"}' % ("9" * 10_000), "run_at",
     f"run_at: '{'9' * 56}... is no time; write it as 2026-11-22T09:15:30Z (ISO 8601)"),
]  # fmt: skip


def label(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return ascii(text)[1:45]


@pytest.mark.parametrize(("data", "message"), NOT_JSON, ids=label)
def test_bytes_that_are_no_job_are_refused_with_place_and_remedy(data: bytes, message: str) -> None:
    with pytest.raises(BadJob) as caught:
        parse(data)
    assert str(caught.value) == message
    assert caught.value.member == ""


@pytest.mark.parametrize(("text", "member", "message"), BAD_MEMBERS, ids=label)
def test_a_bad_member_is_named_with_what_is_expected(text: str, member: str, message: str) -> None:
    with pytest.raises(BadJob) as caught:
        parse(text.encode())
    assert str(caught.value) == message
    assert caught.value.member == member


@pytest.mark.parametrize(
    "text",
    [
        '{"command": "a", "run_at": "9999-12-31T23:59:59Z"}',
        '{"command": "a", "run_at": "1970-01-01T00:00:00Z"}',
        '{"command": "a", "priority": -999, "max_retries": 0, "timeout": 0.001, "backoff_base": 0}',
        '{"command": "a", "max_retries": 100000, "timeout": 315360000, "backoff_base": 1e6}',
        '{"argv": ["a", ""], "env": {"a b": ""}, "cwd": "/"}',
        json.dumps({"command": "a", "x": "\U0001f600\u202e\x1b"}),
        '{"command": "a", "x": "\\ud83d\\ude00"}',
        '{"command": "a", "x": ' + "[" * 63 + "]" * 63 + "}",
        '{"command": "' + "[{" * 1000 + '"}',
        '  {"command": "a"}\r\n\0\0'[:-2],
        '{"command": "a", "x": 12345678901234567890123}',
        '{"command": "a", "": 1}',
    ],
    ids=label,
)
def test_the_limits_themselves_are_allowed(text: str) -> None:
    parse(text.encode())
