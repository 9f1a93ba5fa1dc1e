"""The command line: `queuectl [options] <command> ...`.

Owns the way from the arguments to a command and from its end to an exit code. Each command's help text is its parser
(docopt), in two stages: the text below reads up to the command word, the command's own text reads the rest. A command's
module is imported when it is asked for, so that `enqueue` pays for nothing but itself.

stdout is data, stderr is talk. When things go wrong: an error of the user's or of the environment is one sentence on
stderr and its exit code, never a traceback; a closed pipe is no error; an AssertionError is a bug of ours and is shown.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Any

from queuectl.errors import OK, QueuectlError

INTERRUPTED = 130  # 128 + SIGINT, as shells say it

TEXT = """\
Usage: queuectl [options] [<command> [<argument>...]]

A job queue that is nothing but a directory.

Give work:
  enqueue       accept a job: a command, a JSON object, or a batch of them
  cancel        stop jobs, waiting or running
  wait          wait until jobs have ended

Look:
  status        how many jobs are in each state, and who works
  list          the jobs
  show          one job, its history, and why it is not running
  logs          what a job has printed

Work:
  worker        start, stop or list workers
  dlq           list, retry or purge the dead letter queue
  prune         remove old jobs that have ended

Set up:
  init          make a spool
  config        set, get, list or unset settings
  fsck          find and mend what should not be in a spool
  doctor        try out whether a file system is good for a spool
  demo          see it work
  help          read about a command or a topic

Options:
  --spool=DIR   the spool's directory; else $QUEUECTL_SPOOL, else ./spool
                where there is one, else ~/.local/state/queuectl/spool
  --version     show the version
  -h, --help    show this text; `queuectl <command> --help` shows more

Exit codes: 0 ok, 1 a negative answer, 2 usage, 3 trouble with the spool,
4 configuration, 124 timed out, 130 interrupted.

Examples:
  queuectl enqueue "curl https://api.example.com"
  queuectl worker start --count 3
  queuectl status
"""

# Which module of this package holds a command. Two words are a command of a group.
MODULES = {
    "enqueue": "enqueue", "cancel": "change", "wait": "wait", "status": "look", "list": "look", "show": "show",
    "logs": "logs", "worker start": "workers", "worker stop": "workers", "worker list": "workers",
    "dlq list": "dlq", "dlq retry": "dlq", "dlq purge": "dlq", "prune": "change", "init": "setup",
    "config set": "settings", "config get": "settings", "config list": "settings", "config unset": "settings",
    "fsck": "check", "doctor": "doctor", "demo": "demo", "help": "help",
}  # fmt: skip
GROUPS = {"worker": "workers", "dlq": "dlq", "config": "settings"}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; the exit code."""
    _complete_streams()
    gc.disable()  # what is imported and parsed now is no garbage; to look for some costs 1 ms
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
    except QueuectlError as error:
        from queuectl.cli.render import complain

        code = complain(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = OK
        abandon_output()
    except OSError as error:
        code = _fail(error)
    finally:
        gc.enable()
    code = _flush(code)
    if argv is None:
        _leave(code)
    return code


def _run(argv: list[str]) -> int:
    from queuectl.cli.door import HelpWanted, Misuse, parse, usage_of

    try:
        given = parse("", TEXT, argv, options_first=True)
        if given["--version"]:
            from queuectl import __version__

            print(f"queuectl {__version__}")
            return OK
        if given["<command>"] is None:
            raise Misuse("Say what to do; `queuectl --help` lists the commands.", usage_of(TEXT))
        return run(given["<command>"], given["<argument>"], given["--spool"])
    except HelpWanted as wanted:
        sys.stdout.write(wanted.text)
        return OK


def run(word: str, argv: list[str], spool: str | None) -> int:
    """Run the command `word` (`worker:start` is `worker start`) with its arguments."""
    from queuectl.cli.door import parse

    group, colon, action = word.partition(":")
    if colon and group in GROUPS:
        word, argv = group, [action, *argv]
    if word in GROUPS:
        text = _text(word)
        given = parse(word, text, argv, options_first=True)
        if given["<action>"] is None:
            from queuectl.cli.door import Misuse, usage_of

            raise Misuse(f"Say what to do with it; `queuectl {word} --help` lists the actions.", usage_of(text))
        spool = given["--spool"] if given["--spool"] is not None else spool
        word, argv = f"{word} {given['<action>']}", given["<argument>"]
    if word not in MODULES:
        from queuectl.cli.usage import unknown_command

        raise unknown_command(word)
    text, command = _module(MODULES[word]).COMMANDS[word]
    given = parse(word, text, argv)
    if given.get("--spool") is None:
        given["--spool"] = spool
    gc.enable()
    code: int = command(given)
    return code


def text_of(word: str) -> str:
    """The help text of a command or a group. KeyError if there is none."""
    return _text(word) if word in GROUPS else str(_module(MODULES[word]).COMMANDS[word][0])


def _text(group: str) -> str:
    return str(_module(GROUPS[group]).GROUP)


def _module(name: str) -> Any:
    return __import__(f"queuectl.cli.{name}", fromlist=[name])


# -- the standard streams -------------------------------------------------------------------------------------------


def _complete_streams() -> None:
    """A stream that was closed (`>&-`) becomes /dev/null: else the next file that is opened would get its number."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(fd)
        sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - they live as long as the process
        sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def abandon_output(stream: int = 1) -> None:
    """Whoever read our output has gone: what is still to come goes nowhere, and Python is quiet about it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)


def _flush(code: int) -> int:
    try:
        sys.stderr.flush()
    except OSError:  # a terminal that has hung up; with something left to say, Python would end with 120
        abandon_output(2)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_output()
    except OSError as error:
        return _fail(error)
    return code


def _leave(code: int) -> None:
    """End the process at once, if nothing can be lost by it. To take down all modules, one by one, would cost 4 ms:
    a tenth of what `enqueue` may. Not with threads about, nor under a debugger, a profiler or coverage."""
    if "threading" in sys.modules or sys.gettrace() is not None or sys.getprofile() is not None:
        return
    try:
        sys.stderr.flush()
    finally:
        os._exit(code)


def _fail(error: OSError) -> int:
    """Say what the system refused. Whatever belongs to the spool has become a SpoolError before; an error without a
    path is stdout's."""
    from queuectl.cli.render import complain
    from queuectl.errors import SpoolError, UsageError

    if error.errno == errno.ENOENT and error.filename is None:  # only getcwd(2) says that
        return complain(UsageError("The working directory is gone. Change to another one."))
    if error.filename is not None:
        return complain(SpoolError.of(error, "go on"))
    abandon_output()
    return complain(SpoolError.of(error, "write the output", "stdout", "Look where the output goes."))
