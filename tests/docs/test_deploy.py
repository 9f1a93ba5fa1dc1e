"""The files for deployment: they are printed as they are shipped, their command lines are understood, a stop is given
the time that it takes, and whoever reads them (systemd, Compose, Kubernetes, a shell) accepts them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from queuectl import config
from queuectl.cli import TEXT, text_of
from queuectl.cli.door import parse
from queuectl.core.names import is_label
from queuectl.core.times import parse_duration
from queuectl.runner import TERM_GRACE
from queuectl.spool import Spool
from tests.docs.pages import DOCS, ROOT, code_spans, read, rows
from tests.docs.runner import Reader
from tests.support import REPOSITORY, environment, listing, needs_root, state_of, until

PAGE = DOCS / "deploy.md"
FILES = sorted((DOCS / "deploy").iterdir())
DEPLOY = {path.name: path.read_text(encoding="utf-8") for path in FILES}
UNITS = [name for name in DEPLOY if name.endswith(".service")]
YAML = [name for name in DEPLOY if name.endswith(".yaml")]
SCRIPTS = [name for name in DEPLOY if name.endswith(".sh")]


def load(name: str) -> list[Any]:
    """The documents of a YAML file."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML (the extra `deploy`)")
    return list(yaml.safe_load_all(DEPLOY[name]))


def checked(*command: str | Path, **more: Any) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr


# -- how they are read ------------------------------------------------------------------------------------------------


def test_help_prints_the_page_with_all_files_and_each_file_alone(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    shown = reader.run("queuectl", "help", "deploy")
    assert shown.startswith(read(PAGE))
    for name, text in DEPLOY.items():
        assert f"queuectl help deploy {name} =" in shown
        assert text in shown
        assert reader.run("queuectl", "help", "deploy", name) == text


def test_the_page_names_every_file_and_no_other() -> None:
    assert {code_spans(row[0])[0] for row in rows(read(PAGE))} == set(DEPLOY)


def test_the_files_are_part_of_the_package() -> None:
    assert "docs/deploy/*" in (ROOT / "setup.cfg").read_text()


# -- what they say of queuectl ----------------------------------------------------------------------------------------


def command_lines(name: str) -> list[list[str]]:
    """The words of each queuectl command that a file starts, without the program."""
    text = DEPLOY[name]
    found = re.findall(r"^(?:ExecStart=|exec |# *(?:docker compose exec worker |kubectl exec deploy/queuectl -- )?)"
                       r"(?:\S*/)?queuectl ((?!help).*)$", text, re.MULTILINE)  # fmt: skip
    lines = [shlex.split(line.partition(" > ")[0]) for line in found if "worker start" in line or "enqueue" in line]
    for words in re.findall(r'^ *(?:CMD|command:|args:) (\[.*\])$', text, re.MULTILINE):
        lines.append([word.strip('"') for word in words.strip("[]").split(", ")])
    return lines


@pytest.mark.parametrize("name", DEPLOY)
def test_every_command_line_is_understood(name: str) -> None:
    lines = command_lines(name)
    assert lines
    for words in lines:
        words = ["4" if "SLURM" in word else word for word in words if word != "$@"]
        given = parse("", TEXT, words, options_first=True)
        word, rest = given["<command>"], given["<argument>"]
        if word == "worker":
            word, rest = f"worker {rest[0]}", rest[1:]
        parse(word, text_of(word), rest)


@pytest.mark.parametrize("name", DEPLOY)
def test_every_variable_and_label_exists(name: str) -> None:
    known = {variable for one in config.SETTINGS for variable in (
        one.environment or (f"QUEUECTL_{one.key.replace('-', '_').upper()}",))} | {"QUEUECTL_SPOOL"}  # fmt: skip
    assert set(re.findall(r"QUEUECTL_[A-Z_]+", DEPLOY[name])) <= known
    assert all(map(is_label, re.findall(r"--label (\S+)", DEPLOY[name])))


def patience(name: str) -> float:
    """How many seconds whoever stops the worker waits before he kills it."""
    pattern = {
        ".service": r"^TimeoutStopSec=(\d+)min$", "compose.yaml": r"^ +stop_grace_period: (\d+)m$",
        "kubernetes.yaml": r"^ +terminationGracePeriodSeconds: (\d+)$", ".sh": r"^#SBATCH --signal=B:TERM@(\d+)$",
    }  # fmt: skip
    (found,) = [re.search(one, DEPLOY[name], re.MULTILINE) for suffix, one in pattern.items() if name.endswith(suffix)]
    assert found
    return float(found[1]) * (60 if found[0].endswith(("min", "m")) else 1)


@pytest.mark.parametrize("name", [name for name in DEPLOY if name != "Dockerfile"])
def test_a_stop_is_given_longer_than_the_worker_gives_its_jobs(name: str) -> None:
    """Jobs get stop-grace, then TERM_GRACE between SIGTERM and SIGKILL; then their records must be written."""
    said = re.findall(r"QUEUECTL_STOP_GRACE(?:=|: \"|, value: )(\w+)", DEPLOY[name])
    assert [patience(name) >= parse_duration(grace) + TERM_GRACE + 30 for grace in said] == [True]


def test_in_a_container_the_worker_is_process_1() -> None:
    assert 'ENTRYPOINT ["queuectl"]' in DEPLOY["Dockerfile"]
    (compose,) = load("compose.yaml")
    assert compose["services"]["worker"]["init"] is False
    assert "entrypoint" not in compose["services"]["worker"]
    pod = load("kubernetes.yaml")[1]["spec"]["template"]["spec"]
    assert pod["shareProcessNamespace"] is False
    assert "command" not in pod["containers"][0]


# -- who reads them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_good_for_systemd(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: systemd)")
    program = tmp_path / "queuectl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = re.sub(r"ExecStart=\S+", f"ExecStart={program}", DEPLOY[name]).replace("User=queue", "User=root")
    file = tmp_path / "queuectl.service"
    file.write_text(unit)
    scope = ["--user"] if name.endswith("-user.service") else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "queuectl" in line] == []
    assert "KillMode=mixed\n" in unit


def test_systemd_would_have_complained_about_a_mistake(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: systemd)")
    file = tmp_path / "queuectl.service"
    file.write_text(DEPLOY["queuectl.service"].replace("KillMode=mixed", "KillMode=sometimes"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert "sometimes" in done.stderr


def test_compose_accepts_the_file() -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (the extra `deploy`)")
    checked(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
            DOCS / "deploy" / "compose.yaml")  # fmt: skip
    (compose,) = load("compose.yaml")
    assert compose["services"]["worker"]["deploy"]["replicas"] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kubernetes_accepts_the_file() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate (the extra `deploy`)")
    claim, deployment = load("kubernetes.yaml")
    for document in (claim, deployment):
        validate.validate(document, "1.30", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate({**deployment, "spec": {"replica": 2}}, "1.30", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"][
        "labels"].items()  # fmt: skip
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_good_for_the_shell(name: str) -> None:
    checked("sh", "-n", DOCS / "deploy" / name)
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    checked("shellcheck", DOCS / "deploy" / name)


# -- what they do -----------------------------------------------------------------------------------------------------


def allocation(spool: Spool, tmp_path: Path, **more: str) -> subprocess.Popen[bytes]:
    """slurm.sh as Slurm starts it: alone, with its variables."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "queuectl").write_text(f'#!/bin/sh\nexec {sys.executable} -m queuectl "$@"\n')
    (programs / "queuectl").chmod(0o755)
    return subprocess.Popen(
        ["sh", DOCS / "deploy" / "slurm.sh"], stderr=subprocess.DEVNULL,
        env=environment(PATH=f"{programs}:{os.environ['PATH']}", QUEUECTL_SPOOL=spool.root, **more),
    )  # fmt: skip


def test_in_an_allocation_a_worker_runs_what_it_can_and_ends(spool: Spool, tmp_path: Path) -> None:
    spool.enqueue("true", id="one")
    spool.enqueue("true", id="two", needs=["gpu"])
    assert allocation(spool, tmp_path, SLURM_CPUS_PER_TASK="2").wait(30) == 0
    assert [state_of(spool, job_id) for job_id in ("one", "two")] == ["completed", "pending"]
    assert allocation(spool, tmp_path, SLURM_JOB_GPUS="0").wait(30) == 0
    assert state_of(spool, "two") == "completed"


def test_the_signal_before_the_end_of_an_allocation_drains(spool: Spool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spool.enqueue(f"until test -e {gate}; do sleep 0.05; done", id="one")
    spool.enqueue("true", id="two", run_at="2036-01-01T00:00:00Z")
    process = allocation(spool, tmp_path)
    until(lambda: listing(spool, "logs") and listing(spool, "processing"), what="it runs")
    process.send_signal(signal.SIGTERM)  # as --signal=B:TERM does, to the batch shell alone
    gate.touch()
    assert process.wait(30) == 0
    assert state_of(spool, "one") == "completed"


@needs_root
def test_the_jobs_of_process_1_end_with_it(spool: Spool, tmp_path: Path) -> None:
    """The reason for `init: false`: a worker elsewhere cannot see what a container has left running."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (Debian: util-linux)")
    beats = tmp_path / "beats"
    spool.enqueue(f"setsid sh -c 'while sleep 0.02; do echo x >> {beats}; done'", id="one")
    outside = subprocess.Popen(
        ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", sys.executable, "-m", "queuectl", "--spool",
         spool.root, "worker", "start"], stderr=subprocess.DEVNULL, env=environment(), cwd=REPOSITORY,
    )  # fmt: skip
    try:
        until(beats.exists, what="the job runs")
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        outside.wait(10)
        size = beats.stat().st_size
        until(lambda: state_of(spool, "one") == "processing", what="its claim is left for another")
        again = subprocess.run(["sleep", "0.3"], check=True)  # fifteen beats, if it lived
        assert (again.returncode, beats.stat().st_size) == (0, size)
    finally:
        outside.kill()
        outside.wait()
