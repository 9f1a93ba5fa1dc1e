"""`python -m queuectl` is `queuectl`."""

from queuectl.cli import main

raise SystemExit(main())
