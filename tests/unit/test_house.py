"""The house: imports run one way, the core is pure, and only the four modules of the spool change it. Read from the
source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import queuectl
from tests.support import REPOSITORY, environment

PACKAGE = Path(queuectl.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# Lower floors know nothing of higher ones. A new module gets a line here.
FLOORS = [
    {"queuectl.errors"},
    {name for name in MODULES if name.startswith("queuectl.core")},
    {f"queuectl.{name}" for name in (
        "config", "disk", "tree", "spool", "probe", "mounts", "lease", "heart", "wakeup", "orphans", "runner",
    )},
    {f"queuectl.{name}" for name in (
        "logsize", "recover", "settling", "admission", "actions", "fsck", "peer", "doctor", "lookout", "talk", "worker",
    )},
    {name for name in MODULES if name.startswith(("queuectl.cli", "queuectl.web"))} | {"queuectl.__main__"},
]  # fmt: skip
FACADE = "queuectl"  # __init__.py: its version may be read by all, and it imports what it offers when it is asked for

CHANGES = {
    "rename", "renames", "replace", "link", "symlink", "unlink", "remove", "removedirs", "rmdir", "mkdir", "makedirs",
    "mknod", "mkfifo", "truncate", "ftruncate", "fsync", "fdatasync", "sync", "chmod", "fchmod", "lchmod", "chown",
    "fchown", "lchown", "utime", "setxattr", "removexattr", "copy_file_range", "sendfile", "posix_fallocate",
}  # fmt: skip
# What is allowed elsewhere, and why.
EXCEPTIONS = {
    ("queuectl.lease", "utime"): "a heartbeat is the mtime of the lease's own descriptor",
    ("queuectl.cli.demo", "mkdtemp"): "a place for the spool to be shown",
}
IMPURE = {"os", "io", "time", "random", "subprocess", "socket", "pathlib", "shutil", "tempfile", "threading", "secrets",
          "fcntl", "glob", "select", "signal", "logging", "sys"}  # fmt: skip


def floor_of(module: str) -> int:
    for number, floor in enumerate(FLOORS):
        if module in floor:
            return number
    raise AssertionError(f"{module} has no floor: say in this test where it lives")


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """What a module imports: the name, the line, and whether at its top (else when a function is called)."""
    tree = ast.parse(MODULES[module].read_text())
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    checked = {id(inner) for guard in guards for inner in ast.walk(guard)}
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in MODULES else node.module
                yield name, node.lineno, id(node) in top and id(node) not in checked


def own_imports(module: str) -> list[tuple[str, int]]:
    found = [(name, line) for name, line, _ in imports(module) if name.partition(".")[0] == "queuectl"]
    return [(name, line) for name, line in found if name != FACADE]


@pytest.mark.parametrize("module", [name for name in MODULES if name != FACADE])
def test_imports_run_from_higher_floors_to_lower_ones(module: str) -> None:
    for name, line in own_imports(module):
        assert floor_of(name) <= floor_of(module), f"{module}:{line} imports {name}, which lives above it"


def test_no_two_modules_import_each_other_even_through_others() -> None:
    graph = {module: {name for name, _ in own_imports(module)} for module in MODULES if module != FACADE}
    # cli's modules meet in its __init__, which imports them by name when they are asked for.
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for name in sorted(graph.get(module, ())):
                if not name.startswith("queuectl.cli"):
                    visit(name, (*path, module))
            done.add(module)

    for module in graph:
        if not module.startswith("queuectl.cli"):
            visit(module, ())


def test_the_facade_imports_nothing_until_it_is_asked() -> None:
    assert [name for name, _, top in imports(FACADE) if top and name.startswith("queuectl")] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("queuectl.core", "queuectl.errors"))])
def test_the_core_reads_no_clock_no_file_no_random_number(module: str) -> None:
    allowed = {"os"} if module == "queuectl.errors" else set()  # os.fsdecode, for a path in a message
    for name, line, _ in imports(module):
        assert name.partition(".")[0] not in IMPURE - allowed, f"{module}:{line} imports {name}"
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("open", "input", "print", "exec", "eval", "__import__"), f"{module}:{node.lineno}"
            assert not called.endswith((".now", ".today", ".utcnow")), f"{module}:{node.lineno} reads a clock"


def changing_calls(module: str) -> Iterator[tuple[str, str, int]]:
    """Calls that change a file system: os.<change>(), fs.<change>(), whatever is opened for writing, and libraries."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            for alias in node.names:
                if alias.name in CHANGES:
                    yield alias.name, "imported from os", node.lineno
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in CHANGES and (owner == "os" or owner.endswith("fs")):
            yield name, called, node.lineno
        if owner in ("shutil", "tempfile") and name != "which":
            yield name, called, node.lineno
        if name in ("write_text", "write_bytes", "touch"):
            yield name, called, node.lineno
        numbered = bool(node.args) and ast.unparse(node.args[0]).isdigit()  # a descriptor: nothing is created
        how = ast.unparse(node.args[1]) if called == "open" and len(node.args) > 1 else ""
        if not numbered and set(how) & set("wxa+"):
            yield "open", f"open({ast.unparse(node.args[0])}, ...)", node.lineno
        if called.endswith(("os.open", "fs.open")) and "O_CREAT" in ast.unparse(node):
            yield "open", called, node.lineno


SPOOL = ("queuectl.spool", "queuectl.disk", "queuectl.tree", "queuectl.probe")


@pytest.mark.parametrize("module", [name for name in MODULES if name not in SPOOL])
def test_only_the_spool_renames_links_removes_and_syncs(module: str) -> None:
    found = [
        f"{module}:{line}: {what}"
        for name, what, line in changing_calls(module)
        if (module, name) not in EXCEPTIONS and "devnull" not in what
    ]
    assert found == []


def test_the_spool_itself_would_be_found_by_that_test() -> None:
    names = {name for module in SPOOL for name, _, _ in changing_calls(module)}
    assert {"rename", "unlink", "fsync", "symlink", "link", "mkdir", "chmod"} <= names


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[module].read_text()))
    assert text, f"{module} has no docstring"
    assert len(text.splitlines()[0]) <= 120


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import queuectl", {"datetime", "subprocess", "json", "queuectl.spool"}),
        ("from queuectl.core import job", {"datetime", "subprocess", "tomlkit", "tomllib", "watchdog"}),
        ("from queuectl.spool import Spool", {"datetime", "subprocess", "watchdog", "filelock", "tomlkit", "tomllib",
                                              "asyncio", "threading", "docopt", "queuectl.worker"}),
    ],
)  # fmt: skip
def test_enqueue_does_not_pay_for_what_it_does_not_use(statement: str, heavy: set[str]) -> None:
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                         env=environment(PYTHONPATH=str(REPOSITORY)))  # fmt: skip
    assert heavy & set(out.stdout.split()) == set()
