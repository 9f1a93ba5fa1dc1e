"""The tree: made once, private or a group's, and refused when others could write or a rename could not cross it."""

from __future__ import annotations

import codecs
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queuectl import fsck
from queuectl.actions import cancel, prune, purge, purge_one
from queuectl.core.backoff import Policy
from queuectl.disk import DIRECTORIES, locate
from queuectl.errors import SpoolError, UsageError
from queuectl.lease import ROLE_CLI, Lease
from queuectl.spool import Spool
from queuectl.tree import initialise
from tests.spool.faults import Fs
from tests.support import at_once, drop, listing, mode, needs_root, recover, run_once, whole_tree

NOBODY = 65534


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def as_user(uid: int, gid: int, action: Callable[[], str]) -> str:
    """Run `action` in a child process as another user, and return what it returned."""
    codecs.lookup("ascii")  # whatever is imported must be so before: the user may not be able to read it
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([gid])
            os.setgid(gid)
            os.setuid(uid)
            os.write(theirs, action().encode())
        except BaseException as error:
            os.write(theirs, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(pid, 0)
    with os.fdopen(ours, "rb") as file:
        return file.read().decode()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users can reach (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_private_spool_is_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        spool = Spool(tmp_path / "new" / "state" / "spool", durability="none")
        spool.enqueue("true", id="x")
        os.close(spool.open_log("x.1.log"))
        spool.change_config({"max-retries": "5"})
    assert mode(spool.root) == 0o700
    assert {mode(spool.dir(name)) for name in DIRECTORIES} == {0o700}
    files = [Path(spool.root, ".id"), Path(spool.config_path), *Path(spool.root).glob("[pl]*/*.*")]
    assert {mode(path) for path in files} == {0o600}
    Spool(spool.root)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_parents_that_a_spool_needs_are_not_left_open_to_all(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        Spool(tmp_path / ".local" / "state" / "queuectl" / "spool", durability="none")
    for parent in (".local", ".local/state", ".local/state/queuectl"):
        assert mode(tmp_path / parent) & 0o022 == 0


@needs_root
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_members_of_a_group_spool_can_work_on_each_others_jobs(open_path: Path, mask: int) -> None:
    root = open_path / "spool"
    with umask(mask):
        initialise(str(root), group=4242)
        Spool(root, durability="none").enqueue("true", id="roots")

        def member() -> str:
            with umask(mask):
                spool = Spool(root, durability="none")
                spool.enqueue("true", id="members")
                with Lease(spool, ROLE_CLI) as lease:
                    run_once(spool, lease, "roots")
            return "fine"

        assert as_user(NOBODY, 4242, member) == "fine"
        recover(Spool(root, durability="none"))
        spool = Spool(root, durability="none")
        spool.enqueue_many([{"command": "true"}])
    assert mode(root) == 0o2770
    assert {mode(root / name) for name in DIRECTORIES} == {0o2770}
    assert {mode(path) for path in root.glob("*/*.json")} == {0o660}
    assert {os.stat(path).st_gid for path in root.glob("*/*.json")} == {4242}


@needs_root
def test_a_stranger_can_neither_read_nor_write_a_private_spool(open_path: Path) -> None:
    root = open_path / "spool"
    Spool(root)
    said = as_user(NOBODY, NOBODY, lambda: Spool(root).enqueue("true"))
    assert said == (
        f"SpoolError: Could not read the spool's identity: {root}/.id: Permission denied."
        " Check who owns the spool and its modes (a private spool is 0700)."
    )


@pytest.fixture
def services(open_path: Path) -> str:
    """The private spool of a service user, opened by root."""
    root = str(open_path / "spool")
    os.mkdir(root)
    os.chown(root, NOBODY, NOBODY)
    assert as_user(NOBODY, NOBODY, lambda: Spool(root).enqueue("true", id="theirs")) == "theirs"
    return root


@needs_root
@pytest.mark.parametrize("action", [
    lambda spool: spool.enqueue("true"), lambda spool: spool.enqueue_many([{"command": "true", "id": "x"}]),
    lambda spool: cancel(spool, "theirs"), lambda spool: spool.put_request("theirs.cancel"),
    lambda spool: spool.change_config({"max-retries": "5"}), lambda spool: Lease(spool, ROLE_CLI),
    lambda spool: prune(spool, ["completed"], None, None), purge, lambda spool: purge_one(spool, "theirs"),
], ids=["enqueue", "enqueue-id", "cancel", "request", "config", "lease", "prune", "purge", "purge-one"])  # fmt: skip
def test_root_leaves_nothing_in_a_private_spool_that_its_workers_could_not_read(
    services: str, action: Callable[[Spool], object]
) -> None:
    before = whole_tree(services)
    with pytest.raises(SpoolError) as caught:
        action(Spool(services))
    assert str(caught.value) == (
        f"{services} belongs to user nobody, who could not read what user root puts there. Do it as that user"
        " (`sudo -u`)."
    )
    assert (caught.value.errno, caught.value.path) == (errno.EPERM, services)
    assert whole_tree(services) == before
    assert not os.path.exists(os.path.join(services, "config.toml"))


@needs_root
def test_root_may_look_into_a_private_spool(services: str) -> None:
    before = whole_tree(services)
    assert [entry.id for entry in Spool(services).entries(["pending"])] == ["theirs"]
    assert prune(Spool(services), ["completed"], None, None, dry_run=True) == []
    assert whole_tree(services) == before


@needs_root
@pytest.mark.parametrize("gone", ["logs", ".id"])
def test_root_makes_nothing_in_a_users_directory(services: str, gone: str) -> None:
    """Nor gives it away: the user could put a link to another's directory in its place."""
    path = Path(services, gone)
    path.unlink() if gone == ".id" else path.rmdir()
    with pytest.raises(SpoolError, match="belongs to user nobody, who could not read what user root puts there"):
        Spool(services)
    assert not path.exists()
    assert as_user(NOBODY, NOBODY, lambda: Spool(services).enqueue("true", id="more")) == "more"


@needs_root
def test_a_user_may_work_in_a_spool_whose_top_an_administrator_has_made(services: str) -> None:
    os.chown(services, 0, NOBODY)
    os.chmod(services, 0o750)
    for name in (".tmp", "pending"):
        os.chmod(os.path.join(services, name), 0o700)
    assert as_user(NOBODY, NOBODY, lambda: Spool(services).enqueue("true", id="more")) == "more"


@needs_root
def test_a_spool_that_is_given_to_root_is_roots(services: str) -> None:
    spool = Spool(services)
    os.chown(services, 0, 0)
    assert spool.enqueue("true", id="x") == "x"


@needs_root
def test_a_server_that_takes_all_for_one_user_is_asked_whose_a_file_becomes(services: str) -> None:
    """As an NFS export with all_squash."""

    class Squashed(Fs):
        asked = 0

        def lstat(self, path: str) -> os.stat_result:
            found = list(os.lstat(path))
            self.asked += path.endswith("=draft")
            found[stat.ST_UID] = NOBODY
            return os.stat_result(found)

    fs = Squashed()
    spool = Spool(services, fs=fs)
    assert spool.enqueue("true", id="x") == "x"
    once = fs.asked
    assert spool.enqueue("true", id="y") == "y"
    assert fs.asked < 2 * once, "it is asked once"


@needs_root
def test_a_spool_here_that_may_not_be_entered_is_not_passed_over(open_path: Path) -> None:
    (open_path / "spool").mkdir(0o700)

    def here() -> str:
        os.chdir(open_path)
        return locate(None, {"HOME": "/nowhere"})

    assert as_user(NOBODY, NOBODY, here) == "spool"


def test_what_everybody_may_write_to_and_is_no_spool_is_not_to_be_closed(tmp_path: Path) -> None:
    """Who types `chmod o-w /tmp` breaks the system."""
    os.chmod(tmp_path, 0o1777)
    with pytest.raises(SpoolError, match=r"so it is no place for a spool\. Name a directory of your own\.$"):
        Spool(tmp_path)


def test_modes_that_keep_the_owner_out_are_found(spool: Spool) -> None:
    os.chmod(spool.dir("failed"), 0o500)
    assert list(spool.wrong_modes()) == [(spool.dir("failed"), 0o500, 0o700, "its owner cannot work in it")]


def test_modes_that_keep_the_group_out_are_found(tmp_path: Path) -> None:
    initialise(str(tmp_path / "spool"), group=os.getgid())
    spool = Spool(tmp_path / "spool")
    assert list(spool.wrong_modes()) == []
    os.chmod(spool.dir("failed"), 0o750)
    assert list(spool.wrong_modes()) == [(spool.dir("failed"), 0o750, 0o2770, "the group cannot work in it")]


@needs_root
def test_what_only_another_member_may_mend_keeps_nothing_else_from_being_mended(open_path: Path) -> None:
    root = str(open_path / "spool")
    initialise(root, group=NOBODY)
    os.chmod(os.path.join(root, "failed"), 0o750)
    os.symlink("nobody.1=draft", os.path.join(root, ".ids", "lost"))
    warm = Spool(open_path / "warm")
    os.symlink("nobody.1=draft", os.path.join(warm.root, ".ids", "lost"))
    fsck.repair(warm, 120.0, Policy(), None, print)  # imports what the member may not read

    def member() -> str:
        said: list[str] = []
        fsck.repair(Spool(root), 120.0, Policy(), None, lambda level, text: said.append(text))
        return f"{said}"

    assert "Could not set the mode: " in as_user(NOBODY, NOBODY, member)
    assert [finding.path for finding in fsck.check(Spool(root), 120.0)] == [os.path.join(root, "failed/")]


# -- made once, mended later ------------------------------------------------------------------------------------------

MAKE = "import sys\nfrom queuectl import Spool\ninput()\nprint(Spool(sys.argv[1], durability='none').identity)"


def test_those_who_make_one_spool_at_once_agree_on_one(tmp_path: Path) -> None:
    for n in range(3):
        said = at_once(MAKE, [[str(tmp_path / f"new{n}" / "spool")]] * 4)
        assert len(set(said)) == 1
        assert listing(tmp_path / f"new{n}" / "spool", ".tmp") == []


def test_a_spool_keeps_its_identity(tmp_path: Path) -> None:
    assert Spool(tmp_path / "spool").identity == Spool(tmp_path / "spool").identity
    assert Spool(tmp_path / "other").identity != Spool(tmp_path / "spool").identity


@pytest.mark.parametrize("name", ["logs", "completed", ".tmp", ".ids", "processing"])
def test_a_directory_that_somebody_removed_is_made_again_when_the_spool_is_opened(tmp_path: Path, name: str) -> None:
    Spool(tmp_path / "spool")
    os.rmdir(tmp_path / "spool" / name)
    Spool(tmp_path / "spool", create=False)
    assert mode(tmp_path / "spool" / name) == 0o700


def test_mending_makes_missing_directories_but_not_another_spool(spool: Spool) -> None:
    os.rmdir(spool.dir("completed"))
    spool.mend_tree()
    assert os.path.isdir(spool.dir("completed"))
    shutil.rmtree(spool.root)
    Spool(spool.root)
    with pytest.raises(SpoolError) as caught:
        spool.mend_tree()
    assert str(caught.value) == (
        f"{spool.root} is not the spool it was: it was moved, removed or unmounted. Bring it back."
    )
    assert caught.value.errno == errno.ENOENT


def test_foreign_files_beside_the_directories_are_left_alone(spool: Spool) -> None:
    Path(spool.root, "README.md").write_text("hello")
    drop(spool, "x.json", {"command": "true"})
    Spool(spool.root)
    assert Path(spool.root, "README.md").read_text() == "hello"


@pytest.mark.parametrize(
    ("explicit", "environ", "here", "found"),
    [
        ("x", {"QUEUECTL_SPOOL": "y"}, True, "x"),
        (None, {"QUEUECTL_SPOOL": "y"}, True, "y"),
        (None, {"QUEUECTL_SPOOL": ""}, True, "spool"),
        (None, {"XDG_STATE_HOME": "/s", "HOME": "/h"}, False, "/s/queuectl/spool"),
        (None, {"HOME": "/h"}, False, "/h/.local/state/queuectl/spool"),
    ],
)
def test_where_the_spool_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    explicit: str | None, environ: dict[str, str], here: bool, found: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if here:
        (tmp_path / "spool" / "pending").mkdir(parents=True)
    assert locate(explicit, environ) == found


def test_an_empty_spool_argument_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--spool needs a directory\."):
        locate("", {})
