"""queuectl: a job queue that is nothing but a directory.

    from queuectl import Spool
    Spool("spool").enqueue("echo hi", priority=10)      # -> the job's id
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "1.0.0"
__all__ = ["Spool", "__version__", "cancel", "requeue", "wait", "workers"]

if TYPE_CHECKING:
    from queuectl.actions import cancel, requeue, wait
    from queuectl.lease import workers
    from queuectl.spool import Spool

_HOMES = {"Spool": "spool", "cancel": "actions", "requeue": "actions", "wait": "actions", "workers": "lease"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line imports this package, and `enqueue` must not pay for a worker.
    if name not in _HOMES:
        raise AttributeError(f"module 'queuectl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"queuectl.{_HOMES[name]}"), name)
