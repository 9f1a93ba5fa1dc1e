"""The checker: what a history and the spool that it left behind must show (after Jepsen's total queue).

`check_history` looks at the history alone, `check_spool` at the tree with `ls` and `cat`, not with queuectl. Both
return sentences, one for each broken promise; none means that all held.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

TERMINAL = ("completed", "dead")
WAITING = ("pending", "processing", "failed")
Event = Mapping[str, Any]


def check_history(history: Iterable[Event], *, hosts: int = 1) -> list[str]:
    """No attempt started twice, no two attempts of one job alive at once: the latter on one host only, because a host
    that is frozen cannot kill its jobs."""
    broken = []
    started: Counter[tuple[str, int]] = Counter()
    claims: Counter[str] = Counter()
    current: dict[str, str] = {}
    ended: set[str] = set()
    for event in history:
        kind, job_id, claim = event["event"], event.get("id", ""), event.get("claim", "")
        if kind == "start":
            started[job_id, event["attempt"]] += 1
            claims[claim] += 1
            current[job_id] = claim
        elif kind == "overlap" and hosts == 1:
            broken.append(
                f"job {job_id}: process {event['other']} of {event['with']} was alive ({event.get('state')}) when"
                f" {claim} started"
            )
        elif kind in ("child", "tick", "end", "kill"):
            if claim != current.get(job_id) and hosts == 1:
                broken.append(f"job {job_id}: {claim} was alive ({kind}) after {current.get(job_id)} had started")
            if kind == "end":
                if claim in ended:
                    broken.append(f"job {job_id}: {claim} ended twice")
                ended.add(claim)
    broken += [f"claim {claim} was started {times} times" for claim, times in claims.items() if times > 1]
    broken += [f"job {i}: attempt {a} was started {times} times" for (i, a), times in started.items() if times > 1]
    return broken


def check_spool(
    root: Path, history: Iterable[Event], *, abandoned_drafts: int = 0, half_written: Collection[str] = ()
) -> list[str]:
    """After the drain: each accepted job has exactly one file, in a terminal state, and tells the truth.

    `abandoned_drafts`: how many may lie in .tmp/. `half_written`: dropped files that were never whole.
    """
    history = list(history)
    broken = []
    files: dict[str, list[str]] = {}
    for state in TERMINAL:
        for name in os.listdir(root / state):
            if name.endswith(".json"):
                files.setdefault(name.removesuffix(".json"), []).append(f"{state}/{name}")
            elif name.endswith(".rejected") and name.partition(".rejected")[0] not in half_written:
                broken.append(f"{state}/{name} was set aside: {_text(root / state / (name + '.reason'))}")
    for state in WAITING:
        broken += [f"{state}/{name} is still there after the drain" for name in os.listdir(root / state)]
    for event in history:
        if event["event"] == "accepted":
            places = files.get(event["id"], [])
            if len(places) != 1:
                broken.append(f"job {event['id']} was accepted and has these files: {places}")
    for job_id, places in files.items():
        for place in places:
            broken += _check_record(job_id, place, json.loads((root / place).read_bytes()), history)
    broken += _check_leftovers(root, abandoned_drafts)
    return broken


def _check_record(job_id: str, place: str, body: Mapping[str, Any], history: list[Event]) -> list[str]:
    """What the job's file says of its attempts is what the attempts did."""
    broken = []
    ends = {
        (e["attempt"], e["claim"].partition("@")[2].rpartition(".")[0]): e["code"]
        for e in history if e["event"] == "end" and e["id"] == job_id
    }  # fmt: skip
    kept = body.get("history", [])
    numbers = [entry["attempt"] for entry in kept]
    if len(set(numbers)) != len(numbers) or numbers != sorted(numbers):
        broken.append(f"{place}: its history tells of attempts {numbers}")
    for entry in kept:
        if "exit_code" in entry and ends.get((entry["attempt"], entry["worker"])) != entry["exit_code"]:
            broken.append(
                f"{place}: attempt {entry['attempt']} by {entry['worker']} is said to have ended with"
                f" {entry['exit_code']}, but nobody did that: {ends}"
            )
    started = {e["attempt"] for e in history if e["event"] == "start" and e["id"] == job_id}
    if unknown := started - set(numbers):
        broken.append(f"{place}: attempts {sorted(unknown)} ran, and its history doesn't know of them")
    if place.startswith("completed/") and not (kept and kept[-1].get("exit_code") == 0):
        broken.append(f"{place} is completed, but its last attempt is {kept[-1:]}")
    # A success that was recorded is final: nothing starts after it.
    if any(entry.get("exit_code") == 0 for entry in kept[:-1]):
        broken.append(f"{place}: it ran again after a success that was recorded")
    return broken


def _check_leftovers(root: Path, abandoned_drafts: int) -> list[str]:
    broken = []
    drafts = [name for name in os.listdir(root / ".tmp") if name.endswith("=draft")]
    others = [name for name in os.listdir(root / ".tmp") if not name.endswith("=draft")]
    if others:
        broken.append(f".tmp/ still holds {others[:5]} ({len(others)} names)")
    if len(drafts) > abandoned_drafts:
        broken.append(f".tmp/ holds {len(drafts)} drafts, but only {abandoned_drafts} enqueuers were killed")
    if leases := os.listdir(root / "workers"):
        broken.append(f"workers/ still holds {leases}")
    return broken


def check_processes(root: Path) -> list[str]:
    """No process of any job is left: none carries a claim of this spool."""
    mark = b"\0QUEUECTL_SPOOL=" + os.fsencode(root) + b"\0"
    broken = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            environ = b"\0" + Path(f"/proc/{name}/environ").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark in environ and b"\0QUEUECTL_CLAIM=" in environ and state not in "ZX":
            broken.append(f"process {name} of a job is still alive ({state})")
    return broken


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return "no reason is given"
