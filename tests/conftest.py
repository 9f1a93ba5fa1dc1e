"""What all tests share: hypothesis without deadlines, an environment without settings, a spool on a real directory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from queuectl.spool import Spool

# Every run tries other examples; a failure prints the blob that replays it.
settings.register_profile(
    "queuectl", deadline=None, derandomize=False, print_blob=True, database=None, max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("queuectl")


# What proves the promises by brute force: minutes of trees, kills and lies. `pytest` alone leaves these out;
# `pytest -m proof` runs them all, and naming a path runs what lies there.
PROOFS = ("chaos", "filesystems", "liar", "model", "mutants", "power", "sweep")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background; commands would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    config.addinivalue_line("markers", "proof: proves a promise by brute force; left out unless asked for")
    config.addinivalue_line("markers", "nfs: runs on a real NFS server with real clients; left out unless asked for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(here).parts[0]
        if kind in PROOFS:
            item.add_marker("proof")
        elif kind == "nfs":
            item.add_marker("nfs")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("proof") or item.get_closest_marker("nfs")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own."""
    for name in list(os.environ):
        if name.startswith(("QUEUECTL_", "DEFAULT_")) or name == "LOG_LEVEL":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers are killed here, and nobody looks for what their jobs have left any more."""
    yield
    place = os.fsencode(tmp_path_factory.getbasetemp())
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"QUEUECTL_SPOOL=" + place in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # another user's, or gone


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A new spool on the disk that the tests run on. Without syncs: these tests end no power."""
    return Spool(tmp_path / "spool", durability="none")
