"""Chaos with a history checker: workers are killed, stopped and continued at random, disks fill, directories go away,
jobs misbehave; then the history of what was promised and what was done is checked (`python -m tests.chaos --help`)."""
