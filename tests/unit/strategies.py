"""What hypothesis makes: parts of names, JSON, instants."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from queuectl.core.names import LONGEST_ID_WITH_NEEDS, LONGEST_NEEDS, Claim, Record, Waiting, needs_of
from queuectl.core.times import LAST, stamp

instants = st.integers(0, LAST)
stamps = instants.map(stamp)
ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", fullmatch=True)
workers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}", fullmatch=True)
labels = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}", fullmatch=True)
needs = st.lists(labels, max_size=4).map(needs_of).filter(lambda text: len(text) <= LONGEST_NEEDS)
priorities = st.integers(-999, 999)
attempts = st.integers(0, 100_001)
waiting = st.builds(
    lambda stamp, priority, count, job_id, needs: Waiting(
        stamp, priority, count, job_id[: LONGEST_ID_WITH_NEEDS - len(needs)], needs
    ),
    stamps, priorities, attempts, ids, needs,
)  # fmt: skip
claims = st.builds(
    lambda one, worker, n: Claim(*one[:4], worker, n, one.needs), waiting, workers, st.integers(1, 10**12 - 1)
)
records = st.one_of(
    st.builds(Record, claims, st.sampled_from(["completed", "dead"]), st.just(""), st.just(0)),
    st.builds(Record, claims, st.sampled_from(["pending", "failed"]), stamps, attempts),
)

# Texts that are almost names: the letters of names, rearranged.
almost_names = st.one_of(
    st.text(),
    st.text("0123456789TZ.pan+@=-_jsontmp\n/\u0662\uff11", max_size=60),
    st.builds(lambda name, place, letter: name[:place] + letter + name[place:],
              waiting.map(lambda w: w.name), st.integers(0, 60), st.text(max_size=2)),
    st.builds(lambda name, place, letter: name[:place] + letter + name[place + 1 :],
              st.one_of(claims.map(lambda c: c.name), records.map(lambda r: r.name)), st.integers(0, 200), st.text()),
)  # fmt: skip

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)  # fmt: skip
json_values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4), max_leaves=12)

KNOWN = [
    "id", "command", "argv", "priority", "run_at", "max_retries", "timeout", "backoff_base", "backoff_max", "jitter",
    "cwd", "env", "needs", "history", "attempts", "created_at", "updated_at", "last_error", "exit_code", "state",
    "payload", "jobId", "job_id", "runAt", "next_run_at", "maxRetries", "createdAt", "backoff-base",
    "default_max_retries",
]  # fmt: skip

# Objects that are almost jobs: known members with whatever value.
almost_jobs = st.dictionaries(st.sampled_from(KNOWN), json_values, max_size=6)


def jobs() -> st.SearchStrategy[dict[str, Any]]:
    """Objects that are jobs."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
    in_2026 = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31))
    return st.fixed_dictionaries(
        {"command": text.filter(lambda command: bool(command.strip()))},
        optional={
            "id": ids, "priority": priorities, "max_retries": st.integers(0, 100_000),
            "timeout": st.floats(0.001, 1e6), "backoff_base": st.floats(0, 1e6), "backoff_max": st.floats(0, 1e6),
            "jitter": st.sampled_from(["none", "full", "equal"]), "cwd": text.map(lambda path: "/" + path),
            "needs": st.lists(st.sampled_from(["gpu", "ssd", "x_1"]), unique=True),
            "env": st.dictionaries(text.filter(lambda name: "=" not in name), text, max_size=3),
            "note": json_values, "run_at": in_2026.map(lambda when: when.isoformat() + "Z"),
        },
    )  # fmt: skip
