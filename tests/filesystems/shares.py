"""One directory, mounted twice on this host by a shared file system: what two hosts would see, but for the network.

Each gives two mount points, or skips the test with the reason.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.filesystems.mounts import loop, run, unmount
from tests.support import until

SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")


@contextmanager
def process(*command: str | Path, stream: socket.socket | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs for as long as the test does."""
    channel = subprocess.DEVNULL if stream is None else stream
    one = subprocess.Popen([str(word) for word in command], stdin=channel, stdout=channel, stderr=subprocess.DEVNULL)
    try:
        yield one
    finally:
        one.kill()
        one.wait()


@contextmanager
def sshfs(place: Path, *, cached: bool = False) -> Iterator[list[Path]]:
    """Two sshfs without ssh: each talks to an sftp-server of its own through a socket (`-o passive`)."""
    server = next(filter(os.path.exists, SFTP_SERVERS), None)
    if shutil.which("sshfs") is None or server is None or not os.path.exists("/dev/fuse"):
        pytest.skip("needs sshfs, an sftp-server and /dev/fuse")
    data = place / "data"
    data.mkdir(parents=True, mode=0o700)
    points = [place / "one", place / "two"]
    with ExitStack() as stack:
        for point in points:
            point.mkdir()
            ours, theirs = socket.socketpair()
            stack.enter_context(process(server, stream=ours))
            options = "passive" if cached else "passive,dir_cache=no"
            stack.enter_context(process("sshfs", "-f", "-o", options, f"here:{data}", point, stream=theirs))
            ours.close()
            theirs.close()
            stack.callback(unmount, point)
            until(lambda point=point: os.path.ismount(point), what="sshfs mounts")  # type: ignore[misc]
        yield points


@contextmanager
def glusterfs(place: Path) -> Iterator[list[Path]]:
    """Two mounts of a GlusterFS volume of one brick, served by this host."""
    if any(shutil.which(tool) is None for tool in ("glusterd", "gluster", "glusterfs")):
        pytest.skip("needs glusterfs-server and glusterfs-client")
    if run("gluster", "--mode=script", "volume", "info", check=False) == 0:
        pytest.skip("a glusterd runs here already; its volumes are left alone")
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout
    address = next(iter(said.split()), "")
    if not address:
        pytest.skip("GlusterFS serves nothing from a host that has only a loopback address")
    volume = f"queuectl-{os.getpid()}-{time.monotonic_ns()}"
    points = [place / "one", place / "two"]
    place.mkdir(mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(loop(place / "disk", "ext4", 256))
        (place / "disk" / "brick").mkdir()
        stack.enter_context(process("glusterd", "-N"))
        gluster = ("gluster", "--mode=script", "volume")
        until(lambda: run(*gluster, "info", check=False) == 0, what="glusterd answers")
        run(*gluster, "create", volume, f"{address}:{place}/disk/brick", "force")
        stack.callback(run, *gluster, "delete", volume, check=False)
        run(*gluster, "start", volume)
        stack.callback(run, *gluster, "stop", volume, "force", check=False)
        for point in points:
            point.mkdir()
            stack.enter_context(
                process("glusterfs", "-N", f"--volfile-server={address}", f"--volfile-id={volume}", point)
            )
            stack.callback(unmount, point)
            until(lambda point=point: os.path.ismount(point), 30, "glusterfs mounts")  # type: ignore[misc]
        points[0].chmod(0o700)
        yield points
