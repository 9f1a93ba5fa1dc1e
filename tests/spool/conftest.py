"""Stages for crashes, with each durability."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spool.stage import Stage, Stages


@pytest.fixture(params=["none", "fsync"])
def stages(request: pytest.FixtureRequest, tmp_path: Path) -> Stages:
    return lambda k: Stage(tmp_path / f"spool{k}", request.param)

