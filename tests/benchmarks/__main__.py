"""The command line: python -m tests.benchmarks [NAME...] [options].

A NAME is a queue or a measure; without any, everything is measured of all that are installed. The report
goes to stdout, progress to stderr. Exit code 1 if a measure failed, 2 for usage, 130 after Ctrl-C; what
was measured until then is still reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from . import install, plot, report
from .catalogue import DRIVERS, MEASURES, PYPI, debian_packages
from .harness import Bench, Failed, say
from .measures import Sizes
from .sampling import Row


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure queuectl and its peers, in one run on one machine, as ratios.",
        epilog=f"measures: {', '.join(MEASURES)}. queues: {', '.join(DRIVERS)}.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a measure or a queue (all)")
    parser.add_argument("--quick", action="store_true", help="small sizes and one sample: does it all work?")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="samples that must count for each figure (5)"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="jobs of throughput and contention (2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the report there instead of to stdout"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot")
    parser.add_argument(
        "--from", dest="sources", type=Path, action="append", default=[], metavar="FILE",
        help="begin with the rows of an earlier --json; with no NAME, only report them",
    )  # fmt: skip
    parser.add_argument(
        "--install", action="store_true", help="install the Python peers, in an environment of their own"
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where to make the spools (the system's temporary directory)"
    )
    parser.add_argument("--tmpfs", action="store_true", help="the same as --dir /dev/shm")
    given = parser.parse_intermixed_args(arguments)
    for name in given.names:
        if name not in DRIVERS and name not in MEASURES:
            parser.error(
                f"no measure or queue is called {name}; there are {', '.join([*MEASURES, *DRIVERS])}"
            )
    for path in (given.json, given.markdown, given.svg):
        if path and not path.parent.is_dir():
            parser.error(f"{path}: there is no such directory")
    return given


def sizes_of(given: argparse.Namespace) -> Sizes:
    sizes = Sizes.quick() if given.quick else Sizes()
    if given.samples:
        sizes = dataclasses.replace(sizes, samples=given.samples)
    return dataclasses.replace(sizes, jobs=given.jobs) if given.jobs else sizes


def install_peers() -> None:
    install.install(PYPI)
    if wanted := debian_packages():
        say(f"from Debian, as root: {install.debian_line(wanted)}")


def progress(rows: list[Row]) -> None:
    for row in rows:
        words = [row.measure, row.driver, row.case, row.figure]
        if row.value is not None:
            words.append(f"{report.number(row.value)} {row.unit}")
        if row.ratio is not None:
            words.append(f"ratio {report.number(row.ratio)}")
        say("  ".join(word for word in [*words, row.note] if word))


def measure(run: report.Run, given: argparse.Namespace, place: Path) -> None:
    """Fill `run`, row by row, so that Ctrl-C leaves what there is."""
    measures = [name for name in MEASURES if name in given.names] or list(MEASURES)
    names = [name for name in DRIVERS if name in given.names] or list(DRIVERS)
    sizes = sizes_of(given)
    with Bench(place) as bench:
        present = []
        for name in names:
            driver = DRIVERS[name]
            if why := driver.missing():
                run.left_out[name] = why
                say(f"{name} is left out: {why}")
            else:
                present.append(driver)
                run.peers[name] = {"version": driver.version(), "keeps": driver.keeps, "note": driver.note}
        for name in measures:
            for driver in present:
                if name in driver.measures:
                    rows = MEASURES[name](bench, driver, sizes)
                    progress(rows)
                    run.rows += rows


def main(arguments: Sequence[str]) -> int:
    given = parse(arguments)
    # PYTHONDONTWRITEBYTECODE and the like would be measured, in the references too
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    if given.install:
        try:
            install_peers()
        except subprocess.CalledProcessError as error:
            say(f"the peers couldn't be installed: {error}")
            return 1
        if not given.names:
            return 0
    place = Path("/dev/shm") if given.tmpfs else given.dir or Path(tempfile.gettempdir())
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    run = report.Run(today, described(given), report.machine(place))
    code = 0
    if given.names or not given.sources:
        try:
            measure(run, given, place)
        except KeyboardInterrupt:
            code = 130
        if any(row.value is None for row in run.rows):
            code = code or 1
    return write(given, combine(given.sources, run)) or code


def described(given: argparse.Namespace) -> str:
    """The command without the names of files."""
    words = ["python", "-m", "tests.benchmarks", *given.names]
    for option in ("quick", "tmpfs"):
        words += [f"--{option}"] if getattr(given, option) else []
    for option in ("samples", "jobs"):
        words += [f"--{option}={getattr(given, option)}"] if getattr(given, option) else []
    return shlex.join(words)


def combine(sources: Sequence[Path], run: report.Run) -> report.Run:
    """Earlier runs, then this one if it has measured anything."""
    runs = [report.Run.from_json(path.read_text(encoding="utf-8")) for path in sources]
    if run.rows or not runs:
        runs.append(run)
    first = runs[0]
    for other in runs[1:]:
        first.merge(other)
    return first


def write(given: argparse.Namespace, run: report.Run) -> int:
    """Write all that was asked for; the report to stdout too if a file can't be written, for it took long."""
    code = 0
    picture = given.svg.name if given.svg and given.markdown and given.svg.parent == given.markdown.parent else ""
    outputs: list[tuple[Path | None, Callable[[Path], object]]] = [
        (given.json, lambda path: path.write_text(run.as_json(), encoding="utf-8")),
        (given.markdown, lambda path: path.write_text(report.markdown(run, picture), encoding="utf-8")),
        (given.svg, lambda path: plot.svg(run.rows, path)),
    ]
    for path, output in outputs:
        try:
            if path:
                output(path)
        except (Failed, OSError) as error:
            say(str(error))
            code = 1
    if code or not given.markdown:
        print(report.markdown(run), end="")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
