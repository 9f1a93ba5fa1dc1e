"""What a power cut may leave: the calls of an operation, recorded through the fs port, and the trees that a crash after
each of them allows (after ALICE, OSDI 2014).

A file's content is kept once it has been fsynced; before, it may be lost (empty), torn (half) or zeros. A change of a
directory is kept once that directory has been fsynced; before, any of its changes may be kept and any lost (of many, a
beginning of any length, or one without one of them), so that they are reordered within a directory and between two. A
rename may be seen in both places; it never vanishes from both: a name that goes takes effect only if the name that
comes has. That is more than ext4, xfs and btrfs do.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FEW = 6  # changes of a directory of which any may be lost: 64 trees


class Change(NamedTuple):
    """One change of one directory: the name comes (with a file's number, or a link's text) or goes. `move` pairs the
    two halves of a rename; within one directory it is one change, and `gone` is the old name."""

    directory: str
    name: str
    file: int | str | None
    move: int = 0
    gone: str = ""


class File:
    """What was written to a file, and how much of that is safe."""

    def __init__(self, data: bytes, safe: bytes | None) -> None:
        self.data = data
        self.safe = safe


class Moment(NamedTuple):
    """The disk between two calls: what is safe, and what may or may not be."""

    call: str
    safe: dict[str, int | str]
    changes: tuple[Change, ...]
    files: dict[int, tuple[bytes, bytes | None]]
    told: int


class Recorder:
    """Stands in for `os`. Everything that lies in the tree when it begins is safe. `ignore` names what is forgotten of
    syncs: "file" or the name of a directory, so that a test can show that it bites."""

    def __init__(self, root: Path, ignore: frozenset[str] = frozenset()) -> None:
        self.root = str(root)
        self.told = 0
        self.moments: list[Moment] = []
        self._ignore = ignore
        self._files: dict[int, File] = {}
        self._names: dict[str, int | str] = {}
        self._safe: dict[str, int | str] = {}
        self._pending: list[Change] = []
        self._open: dict[int, str] = {}
        self._numbers = itertools.count(1)
        for directory, _, names in os.walk(root):
            for name in names:
                path = os.path.join(directory, name)
                self._names[self._relative(path)] = self._known(path)
        self._safe = dict(self._names)
        self._note("begin")

    def _known(self, path: str) -> int | str:
        if os.path.islink(path):
            return os.readlink(path)
        data = Path(path).read_bytes()
        number = next(self._numbers)
        self._files[number] = File(data, data)
        return number

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def __getattr__(self, name: str) -> Any:
        real, seen = getattr(os, name), getattr(type(self), f"_on_{name}", None)
        if seen is None:
            return real

        def call(*args: Any, **more: Any) -> Any:
            result = None if name == "fsync" else real(*args, **more)
            if seen(self, result, *args) is not False:
                self._note(name)
            return result

        return call

    def _note(self, call: str) -> None:
        files = {number: (file.data, file.safe) for number, file in self._files.items()}
        self.moments.append(Moment(call, dict(self._safe), tuple(self._pending), files, self.told))

    def _change(self, path: str, file: int | str | None, move: int = 0) -> None:
        name = self._relative(path)
        if file is None:
            self._names.pop(name, None)
        else:
            self._names[name] = file
        self._pending.append(Change(os.path.dirname(name), name, file, move))

    def _on_open(self, fd: int, path: str, flags: int, mode: int = 0) -> bool:
        self._open[fd] = self._relative(path)
        if flags & os.O_CREAT and self._relative(path) not in self._names:
            number = next(self._numbers)
            self._files[number] = File(b"", None)
            self._change(path, number)
            return True
        return False

    def _on_close(self, _: None, fd: int) -> bool:
        self._open.pop(fd, None)
        return False

    def _file(self, fd: int) -> File:
        number = self._names[self._open[fd]]
        assert isinstance(number, int)
        return self._files[number]

    def _on_write(self, written: int, fd: int, data: bytes) -> None:
        file = self._file(fd)
        file.data = data[:written] + file.data[written:]  # each file is written once, from its beginning

    def _on_ftruncate(self, _: None, fd: int, size: int) -> None:
        self._file(fd).data = self._file(fd).data[:size]

    def _on_fsync(self, _: None, fd: int) -> None:
        path = self._open[fd]
        if path in self._names:
            if "file" not in self._ignore:
                self._file(fd).safe = self._file(fd).data
        elif path not in self._ignore:
            self._keep({change for change in self._pending if change.directory == ("" if path == "." else path)})

    def _keep(self, kept: set[Change]) -> None:
        # What is synced brings the other half of its renames along only if that is the half that comes.
        moves = {change.move for change in kept if change.move and change.file is None}
        kept |= {change for change in self._pending if change.move in moves and change.file is not None}
        for change in [change for change in self._pending if change in kept]:
            self._pending.remove(change)
            apply(self._safe, change)

    def _on_rename(self, _: None, source: str, target: str) -> None:
        move = next(self._numbers)
        old, new = self._relative(source), self._relative(target)
        file = self._names[old]
        if os.path.dirname(old) == os.path.dirname(new):
            self._names[new] = self._names.pop(old)
            self._pending.append(Change(os.path.dirname(new), new, file, 0, old))
        else:
            self._change(target, file, move)
            self._change(source, None, move)

    def _on_symlink(self, _: None, text: str, path: str) -> None:
        self._change(path, text)

    def _on_unlink(self, _: None, path: str) -> None:
        self._change(path, None)


def apply(tree: dict[str, int | str], change: Change) -> None:
    tree.pop(change.gone, None)
    if change.file is None:
        tree.pop(change.name, None)
    else:
        tree[change.name] = change.file


def trees(moment: Moment) -> Iterator[dict[str, bytes | str]]:
    """The trees that a power cut at this moment may leave: path -> content, or a link's text."""
    directories = sorted({change.directory for change in moment.changes})
    queues = [[change for change in moment.changes if change.directory == one] for one in directories]
    seen: set[frozenset[tuple[str, int | str]]] = set()
    for parts in itertools.product(*map(_kept, queues)):
        kept = {change for part in parts for change in part}
        apart = {change.move for change in moment.changes if change.file is not None and change not in kept}
        tree = dict(moment.safe)
        # The half that goes is not kept without the half that comes; within one directory they are one.
        for change in moment.changes:
            if change in kept and (change.file is not None or not change.move or change.move not in apart):
                apply(tree, change)
        shape = frozenset(tree.items())
        if shape not in seen:
            seen.add(shape)
            yield from _contents(tree, moment.files)


def _kept(changes: list[Change]) -> Iterator[tuple[Change, ...]]:
    """What may be kept of the changes of one directory: any of a few, else a beginning, or one without one of them."""
    for length in range(len(changes) + 1):
        if len(changes) <= FEW:
            yield from itertools.combinations(changes, length)
        else:
            yield tuple(changes[:length])
            yield from itertools.combinations(changes[:length], length - 1) if length > 1 else ()


def _contents(
    tree: dict[str, int | str], files: dict[int, tuple[bytes, bytes | None]]
) -> Iterator[dict[str, bytes | str]]:
    """All that may be in the files: what is not synced is whole, or all of it empty, torn, zeros or as it was."""
    fixed: dict[str, bytes | str] = {}
    loose: dict[str, tuple[bytes, bytes | None]] = {}
    for path, file in tree.items():
        if isinstance(file, str):
            fixed[path] = file
        elif files[file][0] == files[file][1]:
            fixed[path] = files[file][0]
        else:
            loose[path] = files[file]
    yield fixed | {path: data for path, (data, _) in loose.items()}
    if loose:
        yield fixed | {path: b"" if safe is None else safe for path, (_, safe) in loose.items()}
        yield fixed | {path: data[: len(data) // 2] for path, (data, _) in loose.items()}
        yield fixed | {path: b"\0" * len(data) for path, (data, _) in loose.items()}


def build(tree: dict[str, bytes | str], root: Path) -> None:
    """Make that tree. The directories are there."""
    for path, content in tree.items():
        if isinstance(content, str):
            os.symlink(content, root / path)
        else:
            (root / path).write_bytes(content)
            (root / path).chmod(0o600)
