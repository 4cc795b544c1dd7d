"""`run`: an open run on a SQLite store of its own, where mistakes warn as they do for users."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tinsmith import telemetry
from tinsmith.telemetry import Run, strictly


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with strictly(False), telemetry.init("p", "n", store=tmp_path / "runs") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_run_is_left_open() -> Iterator[None]:
    yield
    left = telemetry.open_runs()
    for one in left:
        one.finish()
    assert left == []
