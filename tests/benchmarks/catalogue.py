"""The names that the command line takes: drivers and measures, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import contention, measures, python_peers, queuectl_driver, shell_peers, volume
from .driver import Driver
from .harness import Bench
from .measures import Sizes
from .sampling import Row

DRIVERS: Mapping[str, Driver] = {
    driver.name: driver for driver in (*queuectl_driver.DRIVERS, *shell_peers.DRIVERS, *python_peers.DRIVERS)
}

MEASURES: Mapping[str, Callable[[Bench, Driver, Sizes], list[Row]]] = {
    "throughput": measures.throughput,
    "enqueue": measures.enqueue,
    "startup": measures.startup,
    "latency": measures.latency,
    "idle": volume.idle,
    "backlog": volume.backlog,
    "contention": contention.contention,
    "queries": volume.queries,
}

PYPI = sorted({package for driver in python_peers.DRIVERS for package in driver.packages})


def debian_packages() -> set[str]:
    """What the peers need from Debian and isn't there; nothing that would already be."""
    wanted: set[str] = set()
    for driver in DRIVERS.values():
        if driver.missing():
            if isinstance(driver, shell_peers.ShellDriver):
                wanted.add(driver.package)
            elif isinstance(driver, python_peers.PythonDriver) and driver.lacks_server():
                wanted.add(driver.server)
    return wanted
