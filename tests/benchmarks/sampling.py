"""Which samples count, and what is made of them.

Each sample is enclosed by two runs of its reference: one just before, one just after. Where these differ
by more than a third the machine was busy with something else, and the sample is left out. What is left
gives medians: of the value itself, and of its ratio to the mean of its two references. If too few are
left after three times as many attempts, the row says how many there were; with none it has no figures at
all.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from .harness import Failed

TOLERANCE = 1 / 3
ATTEMPTS = 3


class Pair:
    """Encloses the timed part of a sample: `with pair: ...`. Without a reference every sample counts."""

    def __init__(self, reference: Callable[[], float] | None) -> None:
        self._reference = reference
        self._values: list[float] = []

    def __enter__(self) -> Pair:
        if self._reference is not None:
            self._values.append(self._reference())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._reference is not None:
            self._values.append(self._reference())

    @property
    def steady(self) -> bool:
        return not self._values or max(self._values) <= min(self._values) * (1 + TOLERANCE)

    @property
    def value(self) -> float:
        return statistics.mean(self._values)


@dataclass
class Row:
    """One figure of one driver in one case. `ratio` is to the reference; None where a reference makes no
    sense.
    """

    measure: str
    driver: str
    case: str
    figure: str
    unit: str
    value: float | None = None
    ratio: float | None = None
    samples: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    left_out: int = 0
    note: str = ""


@dataclass(frozen=True)
class Case:
    """What is measured, of whom, and under which circumstances."""

    measure: str
    driver: str
    circumstances: str = ""

    def row(self, figure: str, unit: str) -> Row:
        return Row(self.measure, self.driver, self.circumstances, figure, unit)

    def failure(self, note: str) -> Row:
        """The row of a measure that came to nothing."""
        row = self.row("", "")
        row.note = note
        return row


Figures = Mapping[str, tuple[float, str]]
"""figure → (value, unit); a unit that ends in "!" is not set in relation to the reference."""


def collect(
    case: Case,
    reference: Callable[[], float] | None,
    take: Callable[[Pair], Figures],
    want: int,
) -> list[Row]:
    """Take samples until `want` of them count, and make one Row of each figure; one failed sample fails the
    case.
    """
    return attempt(case, partial(_collect, case, reference, take, want))


def attempt(case: Case, rows: Callable[[], list[Row]]) -> list[Row]:
    """The rows, or one that says what went wrong. A mistake of the benchmark itself (AssertionError) goes
    on up.
    """
    try:
        return rows()
    except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
        return [case.failure(f"failed: {error}")]


def _collect(
    case: Case, reference: Callable[[], float] | None, take: Callable[[Pair], Figures], want: int
) -> list[Row]:
    rows: dict[str, Row] = {}
    kept = left_out = 0
    for _ in range(want * ATTEMPTS):
        pair = Pair(reference)
        figures = take(pair)
        if not pair.steady:
            left_out += 1
            continue
        kept += 1
        for name, (value, unit) in figures.items():
            row = rows.setdefault(name, case.row(name, unit.rstrip("!")))
            row.samples.append(value)
            if not unit.endswith("!"):
                row.ratios.append(value / pair.value)
        if kept == want:
            break
    for row in rows.values():
        row.value = statistics.median(row.samples)
        row.ratio = statistics.median(row.ratios) if row.ratios else None
        row.left_out = left_out
        row.note = "" if kept == want else f"{kept} of {want} samples: an unsteady machine"
    return list(rows.values()) or [case.failure("no steady sample: the machine was too busy")]


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the sorted values don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
