"""The SVG plot: throughput and latency of all queues, and queuectl's rate over the size of its backlog.

matplotlib is imported only here and only now (extra `bench`); without it, a sentence says how to get it.
A panel with nothing to show is left out.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from .harness import Failed
from .sampling import Row

OURS, THEIRS = "#1f6f8b", "#b8b8b8"


def _colour(driver: str) -> str:
    return OURS if driver.startswith("queuectl") else THEIRS


def svg(rows: list[Row], path: Path) -> None:
    """Write the plot; Failed without matplotlib or rows to show."""
    try:
        matplotlib: Any = import_module("matplotlib")
    except ImportError:
        raise Failed("the plot needs matplotlib: pip install 'queuectl[bench]'") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "queuectl"  # the same rows give the same file
    pyplot: Any = import_module("matplotlib.pyplot")
    panels = [
        (draw, found)
        for draw, found in (
            (_throughput, _having(rows, "throughput", "rate")),
            (_latency, _idle_latency(rows)),
            (_backlog, [row for row in _having(rows, "backlog", "first jobs") if "pending" in row.case]),
        )
        if found
    ]
    if not panels:
        raise Failed("no figures to plot")
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4.5), squeeze=False)
    for axis, (draw, found) in zip(axes[0], panels, strict=True):
        draw(axis, found)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _having(rows: list[Row], measure: str, *figures: str) -> list[Row]:
    return [row for row in rows if row.measure == measure and row.figure in figures and row.value is not None]


def _idle_latency(rows: list[Row]) -> list[Row]:
    """Without queuectl's own command line: it is still ending while the job already runs."""
    found = [row for row in _having(rows, "latency", "p50", "p95") if row.case.endswith("idle")]
    return [row for row in found if not (row.driver.startswith("queuectl") and row.case.startswith("cli"))]


def _throughput(axis: Any, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.ratio or 0)
    bars = axis.barh(
        [row.driver for row in rows], [row.ratio for row in rows], color=[_colour(r.driver) for r in rows]
    )
    axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axis.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set_title("throughput, of xargs -P2")


def _latency(axis: Any, rows: list[Row]) -> None:
    pairs: dict[str, dict[str, float]] = {}
    for row in rows:
        way = row.case.partition(",")[0]
        label = f"{row.driver} ({way})" if row.driver.startswith("queuectl") else row.driver
        pairs.setdefault(label, {})[row.figure] = max(
            row.value or 0, 0.1
        )  # a log scale takes nothing below zero
    labels = sorted(pairs, key=lambda label: -pairs[label].get("p95", 0))
    for height, label in enumerate(labels):
        p50, p95 = pairs[label].get("p50", 0.1), pairs[label].get("p95", 0.1)
        axis.plot([p50, p95], [height, height], color=_colour(label), linewidth=3)
        axis.plot(p50, height, "o", color=_colour(label))
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xscale("log")
    axis.set_xlabel("ms")
    axis.set_title("latency of an idle queue, p50 to p95")


def _backlog(axis: Any, rows: list[Row]) -> None:
    for driver in dict.fromkeys(row.driver for row in rows):
        points = sorted(
            (int(re.sub(r"\D", "", row.case)), row.ratio)
            for row in rows
            if row.driver == driver and row.ratio
        )
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", label=driver)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("pending jobs")
    axis.legend()
    axis.set_title("the first 500 jobs, of xargs -P2")
