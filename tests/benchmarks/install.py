"""Virtual environments in the user's cache directory: one for the Python peers, one for queuectl.

The peers' is made by --install and kept; a peer is looked for there first and in this interpreter second. Nothing
else is installed without --install, and Debian packages never: their command line is printed. queuectl is installed
anew in each run, as its users do: not editable, with compiled modules.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

_PROBE = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
_VERSION = (
    "import importlib.metadata as m, sys; print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
)


REPOSITORY = Path(__file__).resolve().parents[2]


def home(name: str = "venv") -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "queuectl-benchmarks" / name


@functools.cache
def python_with(*modules: str) -> str | None:
    """An interpreter that can import all of them, or None."""
    for python in (str(home() / "bin" / "python"), sys.executable):
        if not os.access(python, os.X_OK):
            continue
        probe = subprocess.run([python, "-c", _PROBE, *modules], capture_output=True, check=False)
        if probe.returncode == 0:
            return python
    return None


def versions(python: str, packages: Iterable[str]) -> str:
    words = [python, "-c", _VERSION, *packages]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def debian_version(package: str) -> str:
    """Nothing where there is no dpkg, or the program came another way."""
    if not shutil.which("dpkg-query"):
        return ""
    words = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def _pip(place: Path, *words: str) -> None:
    if not (place / "bin" / "python").exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        venv.create(place, with_pip=True)
    command = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", *words]
    subprocess.run(command, stdout=sys.stderr, check=True)


def install(packages: Iterable[str]) -> None:
    """Make the environment, or bring it up to date. subprocess.CalledProcessError if pip can't."""
    _pip(home(), "--upgrade", *sorted(packages))
    python_with.cache_clear()


@functools.cache
def queuectl() -> Path:
    """Install this repository's queuectl; its program. From a copy, because building leaves files in the tree.
    subprocess.CalledProcessError if pip can't."""
    place = home("queuectl")
    with tempfile.TemporaryDirectory(prefix="queuectl-source-") as directory:
        for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, directory)
        shutil.copytree(
            REPOSITORY / "queuectl", Path(directory, "queuectl"), ignore=shutil.ignore_patterns("__pycache__")
        )
        _pip(place, "--quiet", directory)  # whatever is missing
        _pip(place, "--quiet", "--force-reinstall", "--no-deps", directory)  # though the version is the same
    return place / "bin" / "queuectl"


def debian_line(packages: Iterable[str]) -> str:
    return "apt install " + " ".join(sorted(packages))
