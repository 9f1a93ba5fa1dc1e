"""The report: the rows and where they come from, as JSON and as Markdown.

A JSON file is a whole run, so that a report can be made of several (`--from`): what a later run says
of a case replaces all that an earlier one said of it. The tables are made of rows alone; nothing is
measured here.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .sampling import Row

FORMAT = 1

TITLES: Mapping[str, tuple[str, str]] = {
    "throughput": (
        "Throughput",
        "Queued jobs `echo N >> file`, 2 at a time; the ratio is to `xargs -P2 -n1 sh -c`.",
    ),
    "enqueue": (
        "Enqueueing",
        "The ratio is to as many bare files: written, renamed, and for durable queues one syncfs.",
    ),
    "startup": ("The command line", "One call; the ratio is to `python3 -c pass`. Lower is better."),
    "latency": (
        "Latency",
        "From the enqueue's end to the job's first instruction (below zero: the job began before the "
        "enqueuer had returned), and as `whole` from the enqueue's beginning. The ratio is to an `xargs` "
        "that reads a FIFO. Lower is better. *claiming*: a second stream of jobs keeps the worker busy.",
    ),
    "idle": ("Idle cost", "All processes of the queue, with nothing to do. Lower is better."),
    "backlog": ("Backlog", "500 jobs out of so many; the ratio is to `xargs` with 500."),
    "contention": (
        "Contention",
        "The same number of slots in ever more worker processes; the ratio is to `xargs`.",
    ),
    "queries": ("Questions", "One call; the ratio is to `python3 -c pass`. Lower is better."),
}
MORE_IS_BETTER = frozenset({"rate", "first jobs", "later jobs"})
HEADLINES = frozenset(
    {"rate", "p50", "p95", "whole p50", "whole p95", "enqueue", "status", "cpu", "wake-ups", "memory"}
)
NO_PEERS = frozenset({"xargs", "queuectl", "queuectl-none"})


@dataclass
class Run:
    """What was measured, when and where."""

    date: str
    command: str
    machine: dict[str, str]
    peers: dict[str, dict[str, str]] = field(default_factory=dict)
    """name → version, keeps, note."""
    left_out: dict[str, str] = field(default_factory=dict)
    """name → why."""
    rows: list[Row] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Run:
        """ValueError if it isn't such a file."""
        data: dict[str, Any] = json.loads(text)
        if data.pop("format", None) != FORMAT:
            raise ValueError("not a file of this benchmark's format")
        rows = [Row(**row) for row in data.pop("rows")]
        return cls(rows=rows, **data)

    def merge(self, other: Run) -> None:
        """Take over another run's rows, its peers and its command."""
        replaced = {_key(row) for row in other.rows}
        self.rows = [row for row in self.rows if _key(row) not in replaced] + other.rows
        self.peers.update(other.peers)
        self.left_out = {
            name: why for name, why in self.left_out.items() if name not in other.peers
        } | other.left_out
        self.date, self.command = other.date, f"{self.command}; {other.command}"


def _key(row: Row) -> tuple[str, str, str]:
    return row.measure, row.driver, row.case


def machine(place: Path) -> dict[str, str]:
    """The machine as far as it matters for figures; never its name."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": f"{len(os.sched_getaffinity(0))} × {model or platform.machine()}",
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "file system": _file_system(place),
        "Python": platform.python_version(),
    }


def _file_system(place: Path) -> str:
    """The type of the file system that is mounted nearest above `place`; statfs can't tell ext4 from ext2."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split()
        kinds[point] = kind  # the last mount on a point is the one that is seen
    place = place.resolve()
    return next((kinds[str(point)] for point in (place, *place.parents) if str(point) in kinds), "")


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(run: Run, picture: str = "") -> str:
    """The report. `picture` is the plot's file name, if there is one beside it."""
    parts = ["# Performance\n", _origin(run), f"![The plot]({picture})\n" if picture else ""]
    for measure, (title, text) in TITLES.items():
        rows = [row for row in run.rows if row.measure == measure]
        if rows:
            parts.append(f"## {title}\n\n{text}\n\n{_table(rows)}")
    missing = [title for measure, (title, _) in TITLES.items() if not any(row.measure == measure for row in run.rows)]
    if missing:
        parts.append(f"## Not in this run\n\n{', '.join(missing)}.\n")
    parts.append(_peers_ahead(run.rows))
    parts.append(_who(run))
    return "\n".join(part for part in parts if part)


def _origin(run: Run) -> str:
    described = "; ".join(f"{key}: {value}" for key, value in run.machine.items() if value)
    return (
        f"Measured on {run.date} with `{run.command}`. {described}.\n\n"
        "Each figure is the median of its samples; **a ratio is to the reference that ran just before and "
        "just after each sample**, and is what can be compared between machines. Samples whose references "
        "differ by more than a third are left out.\n"
    )


def _table(rows: list[Row]) -> str:
    figures = list(dict.fromkeys(row.figure for row in rows if row.figure))
    units = {row.figure: row.unit for row in rows}
    lines = [
        "| queue | case | "
        + " | ".join(f"{figure} ({units[figure]})" for figure in figures)
        + " | samples |",
        "|---|---|" + "---:|" * len(figures) + "---|",
    ]
    for driver, case in dict.fromkeys((row.driver, row.case) for row in rows):
        found = {row.figure: row for row in rows if (row.driver, row.case) == (driver, case)}
        cells = [_cell(found.get(figure)) for figure in figures]
        lines.append(f"| {driver} | {case} | " + " | ".join(cells) + f" | {_samples(found.values())} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None or row.value is None:
        return ""
    return number(row.value) if row.ratio is None else f"**{number(row.ratio)}** ({number(row.value)})"


def _samples(rows: Iterable[Row]) -> str:
    rows = list(rows)
    counted = f"{max(len(row.samples) for row in rows)}"
    left_out = max(row.left_out for row in rows)
    notes = dict.fromkeys(row.note.replace("|", "/").replace("\n", " ") for row in rows if row.note)
    return "; ".join([counted + (f" ({left_out} left out)" if left_out else ""), *notes])


def _peers_ahead(rows: list[Row]) -> str:
    """Said as it is: where a peer's figure is better than that of queuectl with its defaults."""
    ours = {(*_comparable(row), row.figure): row for row in reversed(rows) if row.driver == "queuectl"}
    found: list[str] = []
    for row in rows:
        own = ours.get((*_comparable(row), row.figure))
        if own is None or row.driver in NO_PEERS or row.figure not in HEADLINES:
            continue
        both = row.ratio is not None and own.ratio is not None
        theirs, mine = (row.ratio, own.ratio) if both else (row.value, own.value)
        if theirs is None or mine is None:
            continue
        if theirs > mine if row.figure in MORE_IS_BETTER else theirs < mine:
            unit = "" if both else f" {row.unit}"
            words = f"{row.driver} {number(theirs)}{unit}, queuectl {number(mine)}{unit}"
            found.append(f"- {row.measure} ({row.case or row.figure}), {row.figure}: {words}")
    if not ours:
        return ""
    return "## Where a peer is ahead\n\n" + ("\n".join(found) or "Nowhere in this run.") + "\n"


def _comparable(row: Row) -> tuple[str, str]:
    """What two rows must have in common to be compared: neither the count of jobs nor a way of one's own."""
    case = row.case.replace(
        "fifo,", "drop,"
    )  # either is the way of a program that knows nothing of the queue
    if row.measure == "throughput":
        case = ""
    elif row.measure == "enqueue":
        case = case.partition(",")[0]
    return row.measure, case


def _who(run: Run) -> str:
    lines = ["## The queues\n", "| queue | version | an accepted job survives | |", "|---|---|---|---|"]
    for name, about in run.peers.items():
        lines.append(f"| {name} | {about['version']} | {about['keeps']} | {about['note']} |")
    lines += ["", *(f"- {name} was left out: {why}" for name, why in run.left_out.items())]
    return "\n".join(lines).rstrip() + "\n"
