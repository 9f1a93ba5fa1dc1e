"""Labs are booted once for each version; a test has a spool of its own, and leaves the network healed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.nfs.cluster import Cluster, boot, cannot_boot, missing

# `.ci/run` runs one pytest for each, side by side: most of the time is waiting. (pytest-xdist would let each of its
# processes boot the labs of both.)
VERSIONS = ("4.2", "3")


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = missing() if item.get_closest_marker("nfs") else ""
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI must have it")
    if reason := reason or (cannot_boot() if item.get_closest_marker("nfs") else ""):
        pytest.skip(reason)


@pytest.fixture(scope="session", params=VERSIONS)
def two(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A lab of two clients."""
    with boot(2, request.param) as lab:
        yield lab


@pytest.fixture(scope="session", params=VERSIONS)
def four(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A lab of four clients."""
    with boot(4, request.param) as lab:
        yield lab


@pytest.fixture
def cluster(two: Any, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A new spool, shared by two hosts."""
    yield from _on(two, request)


@pytest.fixture
def big_cluster(four: Any, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A new spool, shared by four hosts."""
    yield from _on(four, request)


def _on(lab: Any, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]
    found = Cluster(lab, name)
    try:
        yield found
    finally:
        found.end()
